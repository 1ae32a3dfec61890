-- The lease: who has one and for how long, what is known to be dead, who watches, and numbers that rise through a failover.
--
-- The executable from before it may still run: it ignores every column here, and what it writes means "no lease". It cannot be
-- started again on this database.

-- Behind a long transaction nobody else should have to queue: then this fails, and the next start tries again.
set local lock_timeout = '10s';

-- The timeline that this Postgres writes. pg_control_checkpoint() lags after a promotion.
create function jetway_timeline() returns bigint language sql stable as $$
    select ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
$$;

-- The next of a sequence, with the timeline in the bits from 40 on and below 2^53: a promoted standby may have lost the
-- last numbers that were given out. The first to come on a new timeline lifts the sequence, so plain nextval() follows.
create function jetway_next(numbers regclass) returns bigint language plpgsql as $$
declare
    least_one bigint := least(jetway_timeline(), 8191) << 40;
    n bigint := nextval(numbers);
begin
    if n < least_one then
        perform pg_advisory_xact_lock(hashtext('jetway_next'), numbers::oid::integer);
        n := nextval(numbers);
        if n < least_one then
            n := setval(numbers, least_one + (n & ((1::bigint << 40) - 1)));
        end if;
    end if;
    return n;
end
$$;

alter table drones alter column term set default jetway_next('drone_terms');
alter table backends alter column fencing_token set default jetway_next('fencing_tokens');

-- The timeline on which absent keys may be granted: on a later one not before every drone has been outwaited.
alter table installation add column settled_timeline bigint not null default jetway_timeline();

alter table drones
    -- In this term it has a lease of the next two columns. Any other term: it has none, and is not watched.
    add column lease_term bigint,
    add column lease_length_ms bigint not null default 0,
    add column lease_margin_ms bigint not null default 0,
    -- Rows of older terms: what is stopped for want of a lease does not run any more. Equal to its term: the lease is over,
    -- and nothing is placed on it.
    add column lease_over_below bigint not null default 0,
    -- Rows of older terms: nothing of them runs any more. The host was booted anew, or an operator says that it is dead.
    add column dead_below bigint not null default 0,
    -- An operator has said so, in this term.
    add column forgotten_term bigint,
    -- The agent process that has the drone, and the one before it: that one does not come back.
    add column agent uuid,
    add column agent_before uuid;

alter table backends
    -- PUTs that were sent for this row, or may have been.
    add column puts_sent integer not null default 1,
    -- Where the spec does not say it: of a row that was put back, or that was placed on a drone without a lease.
    add column on_isolation text,
    -- Never given away for want of a lease. Where init becomes the application, nobody ends it when its agent is dead.
    add column keeps boolean not null
        generated always as (key_name is null or coalesce(on_isolation, spec ->> 'on_isolation', 'keep') <> 'stop'
                             or coalesce(spec #>> '{executable,init}', '') = 'exec') stored;

-- What lives already was started by an agent that knew no lease: its init does not end it.
update backends set on_isolation = 'keep' where ended_at is null;

-- For the reconciler that ends what is known to be dead: it reads nothing of what lives.
create index backends_live_term on backends (drone_id, drone_term) where ended_at is null;
create index backends_live_leased on backends (drone_id, drone_term) where ended_at is null and not keeps;

-- Each controller's watch writes here before it reads: a Postgres that can only be read makes no drone look silent.
create table controllers (
    id uuid primary key,
    turn bigint not null default 0,
    last_turn timestamptz not null default now()
) with (fillfactor = 50);

select jetway_next('drone_terms'), jetway_next('fencing_tokens');
