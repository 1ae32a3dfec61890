//! A drone's server without an engine, for controllers: it keeps backends in memory, obeys the test,
//! and can refuse, be silent, or be slow.

#![expect(clippy::result_large_err, reason = "a refusal is a whole answer, and speed is nothing here")]

mod follow;
mod grants;
mod words;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use jetway_protocol::controller_api::BackendEvent;
use jetway_protocol::drone_api::{
    BackendView, DeleteBackend, DeleteReply, Draining, Inventory, InventoryEntry, PutBackend, RefusalCode,
    SetWarm, StatusView, Stop,
};
use jetway_protocol::grant::Grant;
use jetway_protocol::hint::Hint;
use jetway_protocol::ids::{BackendId, DroneId, Term};
use jetway_protocol::status::{End, EndReason, Status, StatusEntry, TerminationKind};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::warm::WarmTargets;
use jetway_service::lifecycle::Lifecycle;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use words::{Mode, end, made_up};
use words::{no, shown};

pub struct Kept {
    pub put: PutBackend,
    pub history: Vec<StatusEntry>,
    pub grants: Vec<Grant>,
}

#[derive(Default)]
struct Inside {
    id: Option<DroneId>,
    term: Option<Term>,
    mode: Mode,
    backends: HashMap<BackendId, Kept>,
    tombstones: Vec<BackendId>,
    calls: Vec<String>,
    draining: Option<bool>,
    warm: Option<WarmTargets>,
    /// Says of each of its backends that it holds the key.
    holds_keys: bool,
    /// What holds every start up.
    hint: Option<Hint>,
    /// What ended backends have printed last.
    kept_output: Option<String>,
}

pub struct FakeDrone {
    pub address: String,
    inside: Mutex<Inside>,
    changed: watch::Sender<u64>,
}

type Fake = Arc<FakeDrone>;

impl FakeDrone {
    pub async fn start(_name: &str, lifecycle: &Lifecycle) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let drone = Arc::new(Self { address, inside: Mutex::default(), changed: watch::Sender::new(0) });
        let router = Router::new()
            .route("/b", get(inventory))
            .route("/b/{id}", put(put_backend).get(view).delete(delete))
            .route("/b/{id}/grants", post(grants::add_grant))
            .route("/grants", post(grants::add_grants))
            .route("/b/{id}/revoke", post(grants::revoke))
            .route("/b/{id}/stop", post(stop))
            .route("/b/{id}/status", get(status))
            .route("/b/{id}/follow", get(follow::follow))
            .route("/b/{id}/logs", get(follow::logs))
            .route("/draining", put(draining))
            .route("/warm", put(warm))
            .with_state(drone.clone());
        lifecycle.spawn_until_stopped(async move {
            let _ended = axum::serve(listener, router).await;
        });
        drone
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    pub fn set_identity(&self, id: DroneId, term: Term) {
        let mut inside = self.lock();
        (inside.id, inside.term) = (Some(id), Some(term));
    }

    pub fn identity(&self) -> (DroneId, Term) {
        let inside = self.lock();
        (inside.id.unwrap(), inside.term.unwrap())
    }

    pub fn set_mode(&self, mode: Mode) {
        self.lock().mode = mode;
    }

    pub fn hold_keys(&self) {
        self.lock().holds_keys = true;
    }

    pub fn hold_up(&self, hint: Hint) {
        self.lock().hint = Some(hint);
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn keep_output(&self, output: &str) {
        self.lock().kept_output = Some(output.to_owned());
    }

    pub fn forget(&self, id: &BackendId) {
        self.lock().backends.remove(id);
    }

    /// It has ended, and its event is lost.
    pub fn bury(&self, id: &BackendId) {
        let mut inside = self.lock();
        inside.backends.remove(id);
        inside.tombstones.push(id.clone());
    }

    pub fn keep(&self, id: &BackendId, put: PutBackend) {
        self.lock().take(id, put);
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn calls(&self, what: &str) -> usize {
        self.lock().calls.iter().filter(|call| call.starts_with(what)).count()
    }

    /// What it was told last to keep ready.
    pub fn warm(&self) -> Option<WarmTargets> {
        self.lock().warm.clone()
    }

    pub fn draining(&self) -> Option<bool> {
        self.lock().draining
    }

    pub fn grants(&self, id: &BackendId) -> Vec<Grant> {
        self.lock().backends.get(id).map(|kept| kept.grants.clone()).unwrap_or_default()
    }

    pub fn put_of(&self, id: &BackendId) -> Option<PutBackend> {
        self.lock().backends.get(id).map(|kept| kept.put.clone())
    }

    pub fn ids(&self) -> Vec<BackendId> {
        self.lock().backends.keys().cloned().collect()
    }

    /// Moves a backend on; its followers hear of it.
    pub fn advance(&self, id: &BackendId, status: Status) {
        let end = status.is_ending().then(|| end(EndReason::External));
        self.advance_with(id, status, end);
    }

    pub fn advance_with(&self, id: &BackendId, status: Status, end: Option<End>) {
        let mut inside = self.lock();
        let kept = inside.backends.get_mut(id).unwrap();
        kept.history.push(StatusEntry { status, at: UnixMicros::now(), end });
        drop(inside);
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn events(&self) -> Vec<BackendEvent> {
        let inside = self.lock();
        let of = |(id, kept): (&BackendId, &Kept)| {
            let (id, token, timeline) = (id.clone(), kept.put.fencing_token, kept.put.timeline.clone());
            let event = move |entry: &StatusEntry| BackendEvent {
                backend: id.clone(),
                fencing_token: token,
                entry: entry.clone(),
                timeline: timeline.clone(),
            };
            kept.history.iter().map(event).collect::<Vec<_>>()
        };
        inside.backends.iter().flat_map(of).collect()
    }
}

impl Inside {
    fn take(&mut self, id: &BackendId, put: PutBackend) {
        let grants = put.grant.clone().into_iter().collect();
        let history = vec![StatusEntry { status: Status::Scheduled, at: UnixMicros::now(), end: None }];
        self.backends.entry(id.clone()).or_insert(Kept { put, history, grants });
    }

    fn check_term(&self, term: Term) -> Result<(), Response> {
        if self.term == Some(term) { Ok(()) } else { Err(no(RefusalCode::WrongTerm)) }
    }

    fn kept(&mut self, id: &BackendId) -> Result<&mut Kept, Response> {
        if self.tombstones.contains(id) {
            return Err(no(RefusalCode::Ended));
        }
        match self.mode {
            Mode::Forgetful => return Err(no(RefusalCode::Unknown)),
            Mode::Mute => return Err(no(RefusalCode::Unavailable)),
            _ => {}
        }
        self.backends.get_mut(id).ok_or_else(|| no(RefusalCode::Unknown))
    }
}

type Answer<T> = Result<Json<T>, Response>;

/// Notes the call; a silent drone gets no further.
async fn called(drone: &Fake, call: String) {
    let silent = {
        let mut inside = drone.lock();
        inside.calls.push(call);
        inside.mode == Mode::Silent
    };
    if silent {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
}

async fn put_backend(
    State(drone): State<Fake>,
    Path(id): Path<BackendId>,
    Json(body): Json<PutBackend>,
) -> Answer<BackendView> {
    called(&drone, format!("PUT {id}")).await;
    let mut inside = drone.lock();
    if inside.mode == Mode::PutsOff && body.or_never {
        inside.tombstones.push(id.clone());
    }
    inside.mode.take_put(&body)?;
    inside.check_term(body.term)?;
    if inside.tombstones.contains(&id) {
        return Err(no(RefusalCode::Ended));
    }
    inside.take(&id, body);
    Ok(Json(shown(&id, &inside.backends[&id])))
}

async fn view(State(drone): State<Fake>, Path(id): Path<BackendId>) -> Answer<BackendView> {
    called(&drone, format!("GET {id}")).await;
    let mut inside = drone.lock();
    let hint = inside.hint.clone();
    let shown = BackendView { hint, ..shown(&id, inside.kept(&id)?) };
    if inside.mode == Mode::EndsAfterALook {
        inside.tombstones.push(id);
    }
    Ok(Json(shown))
}

async fn status(State(drone): State<Fake>, Path(id): Path<BackendId>) -> Answer<StatusView> {
    called(&drone, format!("STATUS {id}")).await;
    let mut inside = drone.lock();
    if inside.tombstones.contains(&id) {
        let end = Some(end(EndReason::External));
        let entry = StatusEntry { status: Status::Terminated, at: UnixMicros::now(), end };
        return Ok(Json(StatusView { history: vec![entry], hint: None }));
    }
    let hint = inside.hint.clone();
    Ok(Json(StatusView { history: inside.kept(&id)?.history.clone(), hint }))
}

async fn delete(
    State(drone): State<Fake>,
    Path(id): Path<BackendId>,
    Json(body): Json<DeleteBackend>,
) -> Answer<DeleteReply> {
    called(&drone, format!("DELETE {id}")).await;
    let mut inside = drone.lock();
    inside.check_term(body.term)?;
    let live = inside.mode != Mode::Forgetful
        && inside
            .backends
            .get(&id)
            .is_some_and(|kept| kept.history.last().unwrap().status != Status::Terminated);
    if !live {
        inside.tombstones.push(id);
    }
    Ok(Json(DeleteReply { gone: !live }))
}

async fn stop(
    State(drone): State<Fake>,
    Path(id): Path<BackendId>,
    Json(body): Json<Stop>,
) -> Answer<BackendView> {
    let leave = if body.leave { " leave" } else { "" };
    called(&drone, format!("STOP {id} {:?}{leave}", body.kind)).await;
    let shown = {
        let mut inside = drone.lock();
        let kept = inside.kept(&id)?;
        let status = match body.kind {
            TerminationKind::Soft => Status::Terminating,
            TerminationKind::Hard => Status::HardTerminating,
        };
        if kept.history.last().unwrap().status < status {
            kept.history.push(StatusEntry { status, at: UnixMicros::now(), end: Some(end(body.reason)) });
        }
        shown(&id, kept)
    };
    drone.changed.send_modify(|n| *n += 1);
    Ok(Json(shown))
}

async fn draining(State(drone): State<Fake>, Json(body): Json<Draining>) -> Json<()> {
    called(&drone, "DRAINING".into()).await;
    drone.lock().draining = Some(body.draining);
    Json(())
}

async fn warm(State(drone): State<Fake>, Json(body): Json<SetWarm>) -> Answer<()> {
    called(&drone, "WARM".into()).await;
    let mut inside = drone.lock();
    inside.check_term(body.term)?;
    inside.warm = Some(body.targets);
    Ok(Json(()))
}

async fn inventory(State(drone): State<Fake>) -> Json<Inventory> {
    called(&drone, "INVENTORY".into()).await;
    let inside = drone.lock();
    let entry = |(id, kept): (&BackendId, &Kept)| InventoryEntry {
        id: id.clone(),
        fencing_token: kept.put.fencing_token,
        key: kept.put.key.clone(),
        status: kept.history.last().unwrap().status,
    };
    let backends = match inside.mode {
        Mode::Forgetful => Vec::new(),
        _ => inside.backends.iter().map(entry).collect(),
    };
    Json(Inventory { term: inside.term.unwrap(), backends })
}
