-- Statements that are sent for every connect and every event: cheaper, and of the same cost however many sessions there are.
--
-- The executable from before it may still run: its statements find the same indexes, and deleting a backend still deletes its events.

-- Behind a long transaction nobody else should have to queue: then this fails, and the next start tries again.
set local lock_timeout = '10s';

-- A function in SQL that cannot be inlined is parsed and planned anew in each statement that calls it; one in PL/pgSQL once
-- a connection.
create or replace function jetway_timeline() returns bigint language plpgsql stable as $$
begin
    return ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint;
end
$$;

create or replace function without_secrets(spec jsonb) returns jsonb language plpgsql immutable as $$
begin
    -- Most have none.
    if spec #> '{executable,env}' = '{}' and coalesce(spec #> '{executable,credentials}', 'null') = 'null' then
        return spec;
    end if;
    return jsonb_set(
        spec #- '{executable,credentials}',
        '{executable,env}',
        coalesce((select jsonb_object_agg(name, '') from jsonb_object_keys(spec #> '{executable,env}') as name), '{}')
    );
end
$$;

-- While the table is empty, or was when a plan was made, an index that has every live row looks as good as the one with the
-- key, and the plan stays while the table grows. What says "is not null" of a column that never is can only serve a
-- statement that asks for this column.
drop index backends_live_drone, backends_live_term, backends_live_leased, backends_key_name;
create index backends_live_drone on backends (drone_id, fencing_token)
    where ended_at is null and fencing_token is not null;
create index backends_live_term on backends (drone_id, drone_term) where ended_at is null and drone_term is not null;
create index backends_live_leased on backends (drone_id, drone_term)
    where ended_at is null and not keeps and drone_term is not null;
create index backends_key_name on backends (key_name, fencing_token)
    where key_name is not null and fencing_token is not null;

-- An event is only stored where its backend's row was found in the same statement: a constraint would look for, and lock,
-- that row once more for each. What it did for a deleted backend, a trigger does.
alter table backend_events drop constraint backend_events_backend_fkey;

create function delete_backend_events() returns trigger language plpgsql as $$
begin
    delete from backend_events where backend = old.id;
    return null;
end
$$;

create trigger backends_delete_events after delete on backends for each row execute function delete_backend_events();
