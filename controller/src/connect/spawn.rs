//! A connect that starts something: choose a drone, commit one row, tell the drone.
//!
//! What may follow depends on what the drone said. It refused, or the connection was never made: nothing runs there,
//! so the row is ended and another drone may be tried, under a new id. No answer: it may run there, so the backend
//! stays with that drone, the caller gets its URL, and the reconciler goes on.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::error::{Code, PassedOver};
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, ClusterName, DroneId, FencingToken, GrantId};
use jetway_protocol::timeline::StageName;
use jetway_protocol::warm::Kind;
use jetway_service::backoff::jittered;
use tokio::time::Instant;
use uuid::Uuid;

use super::context::Connects;
use super::form;
use super::hosts::{Insertion, host_taken};
use super::place::{Chosen, Known, Need, Nothing, choose, is_about_to_fit, kinds_of};
use super::put::{Put, put};
use super::respond::{Connected, Stopwatch};
use super::round::{Round, grant, static_grant};
use super::session_hosts::Hosted;
use super::validate::{Spawn, Wanted};
use crate::db::backends::{self, Inserted, NewBackend};
use crate::db::drones::{Drone, DroneRef};
use crate::db::{DbError, dispatch, ends};
use crate::error::{ApiError, ApiResult};
use crate::reservations::{Reservation, Reservations};

/// Drones that one connect tries.
const DRONES_MAX: usize = 3;
/// For so long the sender of a row's first `PUT` is the only one, by Postgres' clock.
const DISPATCH: Duration = Duration::from_secs(8);
/// What a caller is told to wait when no drone has room.
const NO_DRONE_RETRY_MS: u64 = 2000;
/// And while new keys wait for drones to be outwaited: a synchronous standby may join before.
const UNSETTLED_RETRY_MS_MAX: u64 = 30_000;
/// How long a connect waits for a drone that has just started and would fit, and how often it looks.
const STARTING_WAIT: Duration = Duration::from_secs(3);
const STARTING_LOOK: Duration = Duration::from_millis(200);

pub async fn spawn(
    app: &Connects,
    wanted: &Wanted,
    spawn: &Spawn,
    stopwatch: &mut Stopwatch,
) -> ApiResult<Round> {
    let cluster = spawn.cluster.as_ref().unwrap_or(&app.cluster);
    let grant = if spawn.spec.use_static_token { static_grant() } else { grant(wanted) };
    approve_hosts(app, wanted, spawn).await?;
    let kinds = kinds_of(&spawn.spec.executable);
    let mut refusals = Vec::new();
    stopwatch.restart_at(0);
    for _ in 0..DRONES_MAX {
        let id = spawn.id.clone().unwrap_or_else(BackendId::random);
        let hosted = app.hosts.of_spawn(wanted, &spawn.spec, cluster, &id)?;
        let (drone, reservation) = place(app, spawn, cluster, &kinds, &refusals).await?;
        stopwatch.restart_at(0);
        stopwatch.lap(StageName::Asked);
        // Of this attempt alone: whoever takes the row later has another, and then this one ends nothing.
        let sender = Sender { id: Uuid::new_v4(), until: Instant::now() + DISPATCH };
        let inserted = insert(app, wanted, spawn, cluster, &id, hosted.as_ref(), &drone, &grant, &sender);
        let (drone, fencing_token) =
            match inserted.await.inspect_err(|_| app.fleet.give_back(&reservation))? {
                Insert::Placed(drone, fencing_token) => (drone, fencing_token),
                Insert::Again => {
                    app.fleet.give_back(&reservation);
                    return Ok(Round::Again);
                }
                Insert::DroneGone => {
                    app.fleet.give_back(&reservation);
                    let message = "has gone, or began draining".to_owned();
                    refusals.push(Refused { drone: drone.id, name: drone.name.to_string(), message });
                    app.fleet.refresh_on_demand(&app.db).await?;
                    continue;
                }
            };
        stopwatch.lap(StageName::Placed);
        let body = put_body(app, wanted, spawn, &id, &drone, fencing_token, &grant, stopwatch);
        // A chosen id that was refused for good could not be used again.
        let may_decline = || spawn.id.is_none() && fits_elsewhere(app, spawn, cluster, &refusals, &drone);
        match put(&app.drones, &drone, &id, body, sender.until, may_decline).await {
            Put::Done { status, answered, drone } => {
                stopwatch.lap(StageName::Dispatched);
                app.warm.note(cluster, &spawn.pool, &spawn.spec, &kinds);
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
                    hint: None,
                    hosted,
                })));
            }
            Put::Nothing { message, again } => {
                app.fleet.give_back(&reservation);
                let key = wanted.key_name();
                tracing::info!(backend = %id, key, drone = %drone.name, message, "a drone refused a backend");
                end_refused(app, &id, &drone, sender.id, &message).await?;
                if spawn.id.is_some() {
                    return Err(chosen_id_refused(&id, &drone, &message));
                }
                if again {
                    continue;
                }
                let message = format!("refused: {message}");
                refusals.push(Refused { drone: drone.id, name: drone.name.to_string(), message });
            }
        }
    }
    Err(all_refused(refusals))
}

fn all_refused(refusals: Vec<Refused>) -> ApiError {
    let message = format!("{DRONES_MAX} drones refused the backend; each says why");
    ApiError::new(Code::NoDrone, message)
        .passed_over(refusals.into_iter().map(PassedOver::from).collect())
        .retry_after_ms(NO_DRONE_RETRY_MS)
}

/// A pool's spec was not in the request; and the hook is asked before anything is begun.
async fn approve_hosts(app: &Connects, wanted: &Wanted, spawn: &Spawn) -> ApiResult<()> {
    let Some(form) = &wanted.host_form else { return Ok(()) };
    form::check_spec(&spawn.spec)?;
    app.hosts.approvals.approve(&form.hosts).await
}

/// Who may send a row's `PUT`, and until when.
struct Sender {
    id: Uuid,
    /// Counted from before the insert, so that it is never later than what Postgres counts.
    until: Instant,
}

/// A drone that was tried, and its own words.
struct Refused {
    drone: DroneId,
    name: String,
    message: String,
}

impl From<Refused> for PassedOver {
    fn from(refused: Refused) -> Self {
        Self { drone: refused.name, reason: refused.message }
    }
}

/// A key that Postgres does not know may be held by a drone whose row was lost with the old primary.
fn unsettled(app: &Connects) -> ApiError {
    let wait = app.leases.unsettled_for();
    let message = format!(
        "Postgres has failed over to a standby that may have lost the last commits; new keys are given in about {} s, when every drone has been outwaited",
        wait.as_secs()
    );
    let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    ApiError::new(Code::Busy, message).retry_after_ms(ms.clamp(NO_DRONE_RETRY_MS, UNSETTLED_RETRY_MS_MAX))
}

/// The same request would meet its own ended row: only another id, or none, helps. So there is no time to wait.
fn chosen_id_refused(id: &BackendId, drone: &DroneRef, message: &str) -> ApiError {
    ApiError::new(
        Code::NoDrone,
        format!("the drone {} refused, and a chosen id cannot be used twice: {message}", drone.name),
    )
    .about(id)
}

async fn place(
    app: &Connects,
    spawn: &Spawn,
    cluster: &ClusterName,
    kinds: &[Kind],
    refusals: &[Refused],
) -> ApiResult<(Arc<Drone>, Reservation)> {
    let exclude: Vec<DroneId> = refusals.iter().map(|refused| refused.drone).collect();
    let executable = &spawn.spec.executable;
    let need = Need { cluster, pool: &spawn.pool, executable, kinds, exclude: &exclude };
    let take = |trusting: bool| {
        app.fleet.with_reservations(|reservations| {
            let (drone, kind) = if trusting {
                pick(app, &need, reservations)?
            } else {
                pick(app, &need, &Reservations::default())?
            };
            let (cpus, memory) = (executable.cpu_reserve, executable.memory_reserve_bytes);
            let reservation = reservations.add(drone.id, cpus, memory, kind, Instant::now());
            Ok((drone, reservation))
        })
    };
    if let Ok(placed) = take(true) {
        return Ok(placed);
    }
    let deadline = Instant::now() + STARTING_WAIT;
    loop {
        // Nothing fits what is known here. With what is known now, and without our own guesses, something may.
        app.fleet.refresh_on_demand(&app.db).await?;
        let nothing = match take(false) {
            Ok(placed) => return Ok(placed),
            Err(nothing) => nothing,
        };
        let soon = is_about_to_fit(&app.fleet.table(), Instant::now(), &need);
        if !soon || Instant::now() >= deadline || app.lifecycle.is_stopping() {
            return Err(no_drone(cluster, spawn, nothing, refusals));
        }
        tokio::time::sleep(jittered(STARTING_LOOK)).await;
    }
}

fn pick(app: &Connects, need: &Need<'_>, reservations: &Reservations) -> Result<Chosen, Nothing> {
    let table = app.fleet.table();
    choose(&Known { table: &table, reservations, now: Instant::now() }, need, &mut rand::rng())
}

/// Whether another drone would be tried if this one refused.
fn fits_elsewhere(
    app: &Connects,
    spawn: &Spawn,
    cluster: &ClusterName,
    refusals: &[Refused],
    tried: &DroneRef,
) -> bool {
    let exclude: Vec<DroneId> = refusals.iter().map(|refused| refused.drone).chain([tried.id]).collect();
    let executable = &spawn.spec.executable;
    let need = Need { cluster, pool: &spawn.pool, executable, kinds: &[], exclude: &exclude };
    exclude.len() < DRONES_MAX
        && app.fleet.with_reservations(|reservations| pick(app, &need, reservations)).is_ok()
}

fn no_drone(cluster: &ClusterName, spawn: &Spawn, nothing: Nothing, refusals: &[Refused]) -> ApiError {
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
        Nothing::Fits(mut drones) => {
            // What a drone has said itself tells more than that it was not asked again.
            for drone in &mut drones {
                if let Some(refused) = refusals.iter().find(|refused| refused.name == drone.drone) {
                    drone.reason.clone_from(&refused.message);
                }
            }
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

#[expect(clippy::too_many_arguments, reason = "one row made from all that a placement has found out")]
async fn insert(
    app: &Connects,
    wanted: &Wanted,
    spawn: &Spawn,
    cluster: &ClusterName,
    id: &BackendId,
    hosted: Option<&Hosted>,
    drone: &Drone,
    grant: &Grant,
    sender: &Sender,
) -> ApiResult<Insert> {
    let new = NewBackend {
        id,
        key: wanted.key.as_ref(),
        cluster,
        spec: &spawn.spec,
        drone: drone.id,
        grant: (grant.id != GrantId::STATIC).then_some(grant),
        dispatcher: sender.id,
        dispatch_seconds: DISPATCH.as_secs_f64(),
    };
    let inserted = match app.hosts.insert(&new, wanted.host_form.as_ref(), hosted).await {
        Ok(Insertion::Inserted(inserted)) => inserted,
        Ok(Insertion::Taken(taken)) => return Err(host_taken(&taken)),
        Ok(Insertion::LookAgain) => return Ok(Insert::Again),
        Err(error) if error.is_broken() => after_unclear(app, &new, error).await?,
        Err(error) => return Err(error.into()),
    };
    match inserted {
        Inserted::Placed { fencing_token, term, advertise } => {
            Ok(Insert::Placed(drone.reach_under(term, advertise), fencing_token))
        }
        Inserted::DroneGone => Ok(Insert::DroneGone),
        Inserted::Unsettled => Err(unsettled(app)),
        Inserted::Conflict => {
            let mut connection = app.db.acquire().await?;
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

/// The insert had no answer: it may be committed, or may still be. It is never sent again, but
/// looked for once, on another connection. What is found is this connect's own, and goes on. What
/// is not may come to be later: then the reconciler dispatches it, and the caller's next connect
/// joins it.
async fn after_unclear(app: &Connects, new: &NewBackend<'_>, error: DbError) -> ApiResult<Inserted> {
    tracing::warn!(backend = %new.id, %error, "an insert had no answer; it is looked for");
    let mut connection = app.hot.acquire().await?;
    match dispatch::inserted(&mut connection, new.id, new.dispatcher).await? {
        Some(placed) => Ok(placed),
        None => Err(error.into()),
    }
}

#[expect(clippy::too_many_arguments, reason = "one message made from all that a placement has found out")]
fn put_body(
    app: &Connects,
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
            .then(|| app.urls.token(id, fencing_token, drone.id, &drone.advertise, GrantId::STATIC)),
        timeline: stopwatch.stages.clone(),
        or_never: false,
    }
}

/// Frees what the row held. Where that fails the row waits for the reconciler, which asks the drone.
async fn end_refused(
    app: &Connects,
    id: &BackendId,
    drone: &DroneRef,
    sender: Uuid,
    message: &str,
) -> ApiResult<()> {
    let mut connection = app.db.acquire().await?;
    if ends::end_refused(&mut connection, id, sender, message).await? {
        return Ok(());
    }
    tracing::warn!(backend = %id, drone = %drone.name, "a refused backend's row is somebody else's by now");
    Err(ApiError::new(Code::Busy, "the drone refused, and the row could not be freed at once")
        .retry_after_ms(NO_DRONE_RETRY_MS)
        .about(id))
}
