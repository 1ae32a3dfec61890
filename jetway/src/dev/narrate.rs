//! The terminal of `jetway dev` as a story: a line when a session is ready, a line when it has ended and why.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use jetway_api::backends::Backend;
use jetway_protocol::controller_api::BackendEvent;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::{End, EndReason, EndedBy, Status};
use tokio::sync::broadcast;

use super::say;
use crate::cli::output::shown;

pub struct Narrator {
    api: SocketAddr,
    http: reqwest::Client,
    names: HashMap<BackendId, String>,
}

const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// Sessions whose names are remembered.
const NAMES_MAX: usize = 10_000;

impl Narrator {
    pub fn new(api: SocketAddr, http: reqwest::Client) -> Self {
        Self { api, http, names: HashMap::new() }
    }

    pub async fn run(mut self, mut events: broadcast::Receiver<BackendEvent>) {
        loop {
            match events.recv().await {
                Ok(event) => self.tell(&event).await,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    async fn tell(&mut self, event: &BackendEvent) {
        match event.entry.status {
            Status::Ready => {
                let name = self.name(&event.backend).await;
                let first = event.timeline.first().map(|stage| stage.start);
                let took = first.map_or(0, |first| event.entry.at.since(first) / 1000);
                say(&format!("session {name} is ready after {took} ms ({})", event.backend));
            }
            Status::Terminated => {
                let name = self.name(&event.backend).await;
                self.names.remove(&event.backend);
                let how = event.entry.end.as_ref().map_or("ended".to_owned(), ending);
                say(&format!("session {name} {how}"));
            }
            Status::Scheduled
            | Status::Loading
            | Status::Starting
            | Status::Waiting
            | Status::Terminating
            | Status::HardTerminating => {}
        }
    }

    /// The session's key, as the API knows it; its id where it has none.
    async fn name(&mut self, backend: &BackendId) -> String {
        if let Some(name) = self.names.get(backend) {
            return name.clone();
        }
        let url = format!("http://{}/ctrl/backends/{backend}", self.api);
        let name = self.key_of(&url).await.map_or_else(|| backend.to_string(), |key| shown(&key));
        if self.names.len() < NAMES_MAX {
            self.names.insert(backend.clone(), name.clone());
        }
        name
    }

    async fn key_of(&self, url: &str) -> Option<String> {
        let answer = self.http.get(url).timeout(CALL_DEADLINE).send().await.ok()?;
        let view: Backend = answer.json().await.ok()?;
        view.summary.key.map(|key| key.name)
    }
}

fn ending(end: &End) -> String {
    let code = end.exit_code.map_or(String::new(), |code| format!(" (exit code {code})"));
    match end.reason {
        EndReason::Idle => format!("has ended: its last window was closed{code}"),
        EndReason::Lifetime => format!("has ended: its lifetime ran out{code}"),
        EndReason::External => format!("has ended: somebody stopped it{code}"),
        EndReason::Exited => format!("has ended by itself{code}"),
        EndReason::Crashed => format!("has crashed{code}"),
        EndReason::OutOfMemory => "was killed: it ran out of memory".to_owned(),
        EndReason::LeaseExpired => format!("was lost: {}", end.message),
        // The others have no words of their own here.
        reason => match reason.ended_by() {
            EndedBy::Application | EndedBy::Request | EndedBy::Drone => {
                format!("has ended: {}{code}", end.message)
            }
            EndedBy::Start => format!("did not start: {}", end.message),
            EndedBy::Fault => format!("was lost: {}", end.message),
        },
    }
}
