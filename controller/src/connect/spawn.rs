//! A connect that starts something: choose a drone, commit one row, tell the drone.
//!
//! What may follow depends on what the drone said. It refused, or the connection was never made: nothing runs there,
//! so the row is ended and another drone may be tried, under a new id. No answer: it may run there, so the backend
//! stays with that drone, the caller gets its URL, and the reconciler goes on.

use jetway_protocol::drone_api::{PutBackend, RefusalCode};
use jetway_protocol::error::Code;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, ClusterName, DroneId, FencingToken, GrantId};
use jetway_protocol::status::Status;
use jetway_protocol::timeline::StageName;

use super::place::{Need, Nothing, choose};
use super::respond::{Connected, Stopwatch};
use super::validate::{Spawn, Wanted};
use super::{Round, grant, static_grant};
use crate::app::App;
use crate::db::backends::{self, Inserted, NewBackend};
use crate::db::drones as drone_rows;
use crate::db::drones::{Drone, DroneRef};
use crate::drone::Failure;
use crate::error::{ApiError, ApiResult};

/// Drones that one connect tries.
const DRONES_MAX: usize = 3;
/// For so long the sender of a row's first `PUT` is the only one: longer than all its attempts.
pub const DISPATCH_SECONDS: f64 = 8.0;
/// What a caller is told to wait when no drone has room.
const NO_DRONE_RETRY_MS: u64 = 2000;

pub async fn spawn(app: &App, wanted: &Wanted, spawn: &Spawn, stopwatch: &mut Stopwatch) -> ApiResult<Round> {
    let cluster = spawn.cluster.as_ref().unwrap_or(&app.cluster);
    let grant = if spawn.spec.use_static_token { static_grant() } else { grant(wanted) };
    let mut refused = Vec::new();
    let mut last_refusal = String::new();
    stopwatch.restart_at(0);
    for attempt in 0..DRONES_MAX {
        let drone = match place(app, spawn, cluster, &refused).await {
            Ok(drone) => drone,
            // Somebody refused, and nobody else is left: the refusal says more than "nobody fits".
            Err(error) if attempt > 0 && error.code() == Code::NoDrone => return Err(error),
            Err(error) => return Err(error),
        };
        stopwatch.restart_at(0);
        stopwatch.lap(StageName::Asked);
        let id = spawn.id.clone().unwrap_or_else(BackendId::random);
        let (drone, fencing_token) = match insert(app, wanted, spawn, cluster, &id, &drone, &grant).await? {
            Insert::Placed(drone, fencing_token) => (drone, fencing_token),
            Insert::Again => return Ok(Round::Again),
            Insert::DroneGone => {
                refused.push(drone.id);
                app.fleet.refresh_on_demand(&app.db).await?;
                continue;
            }
        };
        stopwatch.lap(StageName::Placed);
        let executable = &spawn.spec.executable;
        app.fleet.reserve(drone.id, executable.cpu_reserve, executable.memory_reserve_bytes);
        let body = put_body(app, wanted, spawn, &id, &drone, fencing_token, &grant, stopwatch);
        match put(app, &drone, &id, body).await {
            Put::Done { status, answered, drone } => {
                stopwatch.lap(StageName::Dispatched);
                return Ok(Round::Done(Box::new(Connected {
                    id,
                    fencing_token,
                    spawned: true,
                    status,
                    cluster: cluster.clone(),
                    subdomain: spawn.spec.subdomain.clone(),
                    drone,
                    grant,
                    drone_answered: answered,
                })));
            }
            Put::Nothing(message) => {
                tracing::info!(backend = %id, drone = %drone.name, message, "a drone refused a backend");
                end_refused(app, &id, &drone, &message).await?;
                if spawn.id.is_some() {
                    return Err(chosen_id_refused(&id, &drone, &message));
                }
                refused.push(drone.id);
                last_refusal = format!("{}: {message}", drone.name);
            }
        }
    }
    Err(ApiError::new(Code::NoDrone, format!("{DRONES_MAX} drones refused; the last was {last_refusal}"))
        .retry_after_ms(NO_DRONE_RETRY_MS))
}

fn chosen_id_refused(id: &BackendId, drone: &DroneRef, message: &str) -> ApiError {
    ApiError::new(
        Code::NoDrone,
        format!("the drone {} refused, and a chosen id cannot be used twice: {message}", drone.name),
    )
    .retry_after_ms(NO_DRONE_RETRY_MS)
    .about(id)
}

async fn place(
    app: &App,
    spawn: &Spawn,
    cluster: &ClusterName,
    exclude: &[DroneId],
) -> ApiResult<std::sync::Arc<Drone>> {
    let need = Need { cluster, pool: &spawn.pool, executable: &spawn.spec.executable, exclude };
    let pick = |reservations: &[crate::fleet::Reservation]| {
        let table = app.fleet.table();
        choose(&table.drones, table.read_at.elapsed(), &need, reservations, &mut rand::rng())
    };
    if let Ok(drone) = pick(&app.fleet.reservations()) {
        return Ok(drone);
    }
    // Nothing fits what is known here. With what is known now, and without our own guesses, something may.
    app.fleet.refresh_on_demand(&app.db).await?;
    pick(&[]).map_err(|nothing| no_drone(cluster, spawn, nothing))
}

fn no_drone(cluster: &ClusterName, spawn: &Spawn, nothing: Nothing) -> ApiError {
    let place = if spawn.pool.as_str().is_empty() {
        format!("the cluster {cluster}")
    } else {
        format!("the pool {} of the cluster {cluster}", spawn.pool)
    };
    match nothing {
        Nothing::Offered(drones) => {
            ApiError::new(Code::NotOffered, format!("no drone of {place} offers what the spec asks for"))
                .passed_over(drones)
        }
        Nothing::Fits(drones) => {
            ApiError::new(Code::NoDrone, format!("no drone of {place} can take the backend now"))
                .passed_over(drones)
                .retry_after_ms(NO_DRONE_RETRY_MS)
        }
    }
}

enum Insert {
    Placed(DroneRef, FencingToken),
    Again,
    DroneGone,
}

async fn insert(
    app: &App,
    wanted: &Wanted,
    spawn: &Spawn,
    cluster: &ClusterName,
    id: &BackendId,
    drone: &Drone,
    grant: &Grant,
) -> ApiResult<Insert> {
    let new = NewBackend {
        id,
        key: wanted.key.as_ref(),
        cluster,
        spec: &spawn.spec,
        drone: drone.id,
        grant: (grant.id != GrantId::STATIC).then_some(grant),
        dispatcher: app.process,
        dispatch_seconds: DISPATCH_SECONDS,
    };
    let mut connection = app.db.acquire().await?;
    match backends::insert(&mut connection, &new).await? {
        Inserted::Placed { fencing_token, term, advertise } => {
            Ok(Insert::Placed(drone.reach_under(term, advertise), fencing_token))
        }
        Inserted::DroneGone => Ok(Insert::DroneGone),
        Inserted::Conflict => {
            if let Some(key) = &wanted.key
                && backends::live_by_key(&mut connection, key).await?.is_some()
            {
                return Ok(Insert::Again);
            }
            let subdomain = spawn.spec.subdomain.as_ref();
            let (id_used, subdomain_used) =
                backends::conflicts(&mut connection, id, cluster, subdomain).await?;
            if id_used {
                return Err(
                    ApiError::new(Code::IdTaken, "spawn_config.id was used by another backend").about(id)
                );
            }
            if subdomain_used {
                return Err(ApiError::new(
                    Code::SubdomainTaken,
                    "spawn_config.subdomain is in use by another backend of the cluster",
                ));
            }
            Ok(Insert::Again)
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one message made from all that a placement has found out")]
fn put_body(
    app: &App,
    wanted: &Wanted,
    spawn: &Spawn,
    id: &BackendId,
    drone: &DroneRef,
    fencing_token: FencingToken,
    grant: &Grant,
    stopwatch: &Stopwatch,
) -> PutBackend {
    let uses_static = spawn.spec.use_static_token;
    PutBackend {
        term: drone.term,
        fencing_token,
        key: wanted.key.clone(),
        spec: spawn.spec.clone(),
        grant: (!uses_static).then(|| grant.clone()),
        static_token: uses_static
            .then(|| app.token(id, fencing_token, drone.id, &drone.advertise, GrantId::STATIC)),
        timeline: stopwatch.stages.clone(),
    }
}

enum Put {
    /// It is there, or may be.
    Done { status: Status, answered: bool, drone: DroneRef },
    /// It is certain that nothing runs there, and why.
    Nothing(String),
}

async fn put(app: &App, drone: &DroneRef, id: &BackendId, mut body: PutBackend) -> Put {
    let mut drone = drone.clone();
    for _ in 0..2 {
        let error = match app.drones.put(&drone, id, &body).await {
            Ok(view) => return Put::Done { status: view.status, answered: true, drone },
            Err(error) => Failure::from(error),
        };
        match error {
            // It registered between our commit and our call: the same message under its present term.
            Failure::Refused(RefusalCode::WrongTerm, message) => match present(app, drone.id).await {
                Some(now) if now.term != drone.term => {
                    body.term = now.term;
                    drone = now;
                }
                Some(_) | None => return Put::Nothing(message),
            },
            Failure::Refused(_, message) | Failure::NotSent(message) => return Put::Nothing(message),
            Failure::Unclear(message) => {
                tracing::warn!(backend = %id, drone = %drone.name, message, "a drone did not answer a PUT");
                return Put::Done { status: Status::Scheduled, answered: false, drone };
            }
        }
    }
    Put::Nothing("the drone keeps registering anew".into())
}

async fn present(app: &App, id: DroneId) -> Option<DroneRef> {
    let mut connection = app.db.acquire().await.ok()?;
    drone_rows::address(&mut connection, id).await.ok()?.map(|(drone, _)| drone)
}

/// Frees what the row held. Where that fails the row waits for the reconciler, which asks the drone.
async fn end_refused(app: &App, id: &BackendId, drone: &DroneRef, message: &str) -> ApiResult<()> {
    let mut connection = app.db.acquire().await?;
    if backends::end_refused(&mut connection, id, app.process, message).await? {
        return Ok(());
    }
    tracing::warn!(backend = %id, drone = %drone.name, "a refused backend's row is somebody else's by now");
    Err(ApiError::new(Code::Busy, "the drone refused, and the row could not be freed at once")
        .retry_after_ms(NO_DRONE_RETRY_MS)
        .about(id))
}
