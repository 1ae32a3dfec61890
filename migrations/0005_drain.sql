-- When what is left on a draining drone is stopped. Null: it may go on for as long as it likes.
--
-- The executable from before it may still run: it knows no deadline, and leaves one alone.

-- Behind a long transaction nobody else should have to queue: then this fails, and the next start tries again.
set local lock_timeout = '10s';

alter table drones add column drain_deadline timestamptz;
