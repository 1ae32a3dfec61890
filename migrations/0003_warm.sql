-- Warm pools: which slots an operator has declared, and what was learned of the others. No slot is a row.
--
-- The executable from before this ignores both tables, so no slots are asked for while only such controllers run.

create table warm_pools (
    name text primary key,
    -- What a connect that names the pool starts, and slots are made from: sealed with a key of the installation's secret,
    -- because it holds the environment's values and a registry login for as long as the pool is there.
    sealed bytea not null,
    -- The same as it may be shown: no login, of the environment only the names.
    shown jsonb not null,
    tier text not null,
    slots_min integer not null,
    slots_max integer not null,
    target_hit_rate double precision not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- What arrives of each kind of slot, one row a cluster, pool of drones and kind.
create table warm_demand (
    cluster text not null,
    pool text not null,
    tier text not null,
    hash text not null,
    -- What a slot is made from: no environment, no login. Null where a declared pool has it.
    executable jsonb,
    -- Its spec had a login, which is not kept: it can only be made where the image is present.
    needs_image boolean not null default false,
    start_timeout_seconds integer not null,
    -- Counters as they were last seen, and the estimates that follow from them.
    state jsonb not null,
    noted_at timestamptz not null default now(),
    primary key (cluster, pool, tier, hash)
) with (fillfactor = 50);
