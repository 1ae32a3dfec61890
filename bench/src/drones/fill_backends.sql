-- Sessions that run, $2 on each drone of the pool $1. What a controller leaves in a row once its drone has acknowledged it.
insert into backends (id, key_namespace, key_name, key_tag, cluster, drone_id, drone_term, status, spec, acknowledged_at,
                      created_at, timeline)
select 'fill-' || n, 'fill', 'fill-' || n, '', cluster, drone_id, term, 50,
       '{"executable": {"image": "app:latest", "env": {"SESSION": "", "PORT": ""}, "port": 8080, "init": "supervise",
                        "memory_reserve_bytes": 16777216, "resource_limits": {"memory_limit_bytes": 536870912}},
         "lifetime_limit_seconds": null, "max_idle_seconds": 0, "first_connection_seconds": 30, "linger_seconds": 10,
         "stop_grace_seconds": 10, "start_timeout_seconds": 60, "on_isolation": "stop", "subdomain": null}',
       now() - interval '1 hour', now() - interval '1 hour',
       '[{"stage": "asked", "start": 1760000000000000, "length_us": 150}, {"stage": "placed", "start": 1760000000000150,
          "length_us": 900}, {"stage": "dispatched", "start": 1760000000001050, "length_us": 1200}, {"stage": "claimed",
          "start": 1760000000002250, "length_us": 700, "note": "parked"}, {"stage": "ready", "start": 1760000000002950,
          "length_us": 2100}]'
from (select d.id as drone_id, d.term, d.cluster, row_number() over () as n
      from drones d, generate_series(1, $2) where d.pool = $1) numbered
