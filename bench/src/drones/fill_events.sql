-- Their events: the statuses that their drones ($1: the pool, $2: so many sessions each) have reported.
insert into backend_events (backend, status, at)
select b.id, reached, 1760000000000000 + reached
from backends b join drones d on d.id = b.drone_id and d.pool = $1,
     unnest(array[30, 40, 50]::smallint[]) as reached
where b.key_namespace = 'fill' and $2 > 0
