-- Live backends in the path form under a subdomain like debug--notes, by what stands behind the
-- port's name. By itself: together with 0008 its locks could wait for a connect that waits for them.
--
-- The executable from before it may still run: it does not ask for this index.

-- Behind a long transaction nobody else should have to queue: then this fails, and the next start tries again.
set local lock_timeout = '10s';

create index backends_live_base on backends (cluster, substr(subdomain, strpos(subdomain, '--') + 2))
    where ended_at is null and strpos(subdomain, '--') > 0;
