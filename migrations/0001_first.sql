-- The first schema: installation, drones, backends, their events, proxies, and who runs which periodic task.
--
-- Times that are compared are timestamptz and only ever compared with Postgres' own now(); what drones stamp for
-- people to read is a bigint of microseconds since the epoch.

create table installation (
    only_row boolean primary key default true check (only_row),
    id uuid not null,
    created_at timestamptz not null default now()
);

-- One sequence for every drone: a term names one registration of one drone in the whole installation, so a command
-- that reaches another drone at a reused address is refused.
create sequence drone_terms as bigint;

create table drones (
    id uuid primary key,
    name text not null constraint drones_name_unique unique,
    cluster text not null,
    pool text not null,
    advertise text not null,
    version text not null,
    boot_id uuid not null,
    term bigint not null default nextval('drone_terms'),
    renewal bigint not null default 0,
    capacity jsonb not null,
    load jsonb not null,
    draining boolean not null default false,
    -- Since when it has its present term.
    registered_at timestamptz not null default now(),
    last_heartbeat timestamptz not null default now()
) with (fillfactor = 40); -- heartbeats rewrite the row; room on the page keeps that off the indexes

create index drones_cluster on drones (cluster, name);

-- Below 2^53, so that JavaScript can hold it.
create sequence fencing_tokens as bigint maxvalue 9007199254740991 no cycle;

create table backends (
    id text primary key,
    fencing_token bigint not null default nextval('fencing_tokens') constraint backends_fencing_token_unique unique,
    key_namespace text,
    key_name text,
    key_tag text,
    cluster text not null,
    subdomain text,
    drone_id uuid not null,
    -- The drone's term when the backend was placed.
    drone_term bigint not null,
    -- The rank of its status.
    status smallint not null,
    -- As asked for, defaults filled in. Credentials and the values of the environment are removed once the drone has
    -- it. Null for a backend that was found on a drone and put back.
    spec jsonb,
    use_static_token boolean not null default false,
    -- The first caller's grant, until the drone has it.
    first_grant jsonb,
    -- Who may send the drone this row's PUT, and until when. One sender at a time.
    dispatcher uuid,
    dispatch_until timestamptz,
    -- 1 soft, 2 hard: somebody asked for its end.
    stop_requested smallint,
    created_at timestamptz not null default now(),
    acknowledged_at timestamptz,
    ended_at timestamptz,
    end_json jsonb,
    timeline jsonb not null default '[]',
    constraint backends_key_whole check (
        (key_name is null) = (key_namespace is null) and (key_name is null) = (key_tag is null)
    )
) with (fillfactor = 70);

-- At most one live backend for a key, whatever any process believes.
create unique index backends_live_key on backends (key_namespace, key_name)
    where ended_at is null and key_name is not null;
create unique index backends_live_subdomain on backends (cluster, subdomain)
    where ended_at is null and subdomain is not null;
create index backends_live_drone on backends (drone_id, fencing_token) where ended_at is null;
create index backends_undispatched on backends (dispatch_until) where ended_at is null and acknowledged_at is null;
create index backends_stop_requested on backends (fencing_token)
    where ended_at is null and stop_requested is not null and acknowledged_at is not null;
create index backends_ended on backends (ended_at) where ended_at is not null;
-- For the list, newest first.
create index backends_key_name on backends (key_name, fencing_token) where key_name is not null;
create index backends_drone on backends (drone_id, fencing_token);

create table backend_events (
    backend text not null references backends (id) on delete cascade,
    status smallint not null,
    -- The drone's stamp, microseconds since the epoch.
    at bigint not null,
    end_json jsonb,
    primary key (backend, status)
);

create table proxies (
    id uuid primary key,
    name text not null,
    cluster text not null,
    version text not null,
    last_heartbeat timestamptz not null default now()
) with (fillfactor = 60);

create index proxies_last_heartbeat on proxies (last_heartbeat);
create index proxies_cluster on proxies (cluster, name);

-- Periodic work that one controller at a time should do: whoever moves the time forward has the turn.
create table turns (
    task text primary key,
    next_at timestamptz not null
) with (fillfactor = 50);

-- A spec as it may be kept and shown: no registry login, and of the environment only the names.
create function without_secrets(spec jsonb) returns jsonb language sql immutable as $$
    select jsonb_set(
        spec #- '{executable,credentials}',
        '{executable,env}',
        coalesce((select jsonb_object_agg(name, '') from jsonb_object_keys(spec #> '{executable,env}') as name), '{}')
    )
$$;
