-- The host form: which key has which host, for how long after its session's end, and where a
-- browser goes that may not enter.
--
-- The executable from before it may still run: it ignores all of this. Until the last such
-- controller is gone, a subdomain that it gives in the path form may be one that a key has in the
-- host form.

-- Behind a long transaction nobody else should have to queue: then this fails, and the next start tries again.
set local lock_timeout = '10s';

-- A row of each host that a connect in the host form has taken: a label below a cluster, or a
-- customer's own name. Without a port, because cookies know none.
create table hosts (
    host text primary key,
    -- Its owner: the key, or the backend where there is no key.
    key_namespace text,
    key_name text,
    -- The last backend that had it in the host form. While that lives, and for a hold after its
    -- end, no other owner gets the host.
    backend text not null,
    fencing_token bigint not null,
    return_url text,
    taken_at timestamptz not null default now(),
    -- When the owner's backends before this one ended. Null: there was none that was ever ready.
    before_ended_at timestamptz,
    -- The end of the backend, kept from when its own row is deleted.
    ended_at timestamptz,
    constraint hosts_key_whole check ((key_name is null) = (key_namespace is null))
) with (fillfactor = 80);

create index hosts_backend on hosts (backend);
create index hosts_ended on hosts (ended_at) where ended_at is not null;

-- An end before the application listened: no browser was ever let in.
create function jetway_never_ready(end_json jsonb) returns boolean language sql immutable as $$
    select coalesce(end_json ->> 'reason', '')
           in ('refused', 'image_not_found', 'pull_failed', 'create_failed', 'exited_before_ready', 'start_timeout',
               'listening_elsewhere')
$$;

-- Each host with what its hold is counted from. Null: it is free.
create view held_hosts as
select h.host, h.key_namespace, h.key_name, h.backend, h.return_url, b.id is not null and b.ended_at is null as lives,
       case when b.ended_at is not null and jetway_never_ready(b.end_json) then h.before_ended_at
            else coalesce(b.ended_at, h.ended_at, h.taken_at) end as held_from
from hosts h left join backends b on b.id = h.backend;

-- The key that labels are derived under: 244 random bits, made once for an installation.
alter table installation add column label_key bytea not null
    default uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
