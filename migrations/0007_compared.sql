-- In this term a controller has compared all that the drone has with its rows. Null: not yet.
--
-- While absent keys wait after a failover, only such a drone's lease is renewed: what another one runs may have no row.
-- The executable from before it may still run: it renews without asking, and sets nothing here.

-- Behind a long transaction nobody else should have to queue: then this fails, and the next start tries again.
set local lock_timeout = '10s';

alter table drones add column compared_term bigint;
