-- The host form: which session's key has which host, for how long after its end, and where a browser goes that may not enter.
--
-- The executable from before it may still run: it ignores all of this. Until the last such controller is gone, a subdomain that it
-- gives in the path form may be one that a key has in the host form.

-- Behind a long transaction nobody else should have to queue: then this fails, and the next start tries again.
set local lock_timeout = '10s';

-- A row of each host that a connect in the host form has taken: a label below a cluster, or a customer's own name. Without a port,
-- because cookies know none.
create table hosts (
    host text primary key,
    -- Its owner: the key, or the backend where there is no key.
    key_namespace text,
    key_name text,
    -- The last backend that had it in the host form. While that lives, and for a while after its end, no other owner gets the host.
    backend text not null,
    fencing_token bigint not null,
    -- The first one of this owner. Equal to backend: where that was refused by its drone, the host is free at once.
    first_backend text not null,
    return_url text,
    taken_at timestamptz not null default now(),
    -- The end of the backend, kept from when its own row is deleted.
    ended_at timestamptz,
    constraint hosts_key_whole check ((key_name is null) = (key_namespace is null))
) with (fillfactor = 80);

create index hosts_backend on hosts (backend);
create index hosts_ended on hosts (ended_at) where ended_at is not null;

-- Live backends in the path form under a subdomain like debug--notes, by what stands behind the port's name.
create index backends_live_base on backends (cluster, substr(subdomain, strpos(subdomain, '--') + 2))
    where ended_at is null and strpos(subdomain, '--') > 0;

-- The key that labels are derived under: 244 random bits, made once for an installation.
alter table installation add column label_key bytea not null
    default uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
