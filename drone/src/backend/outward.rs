//! What a backend's task writes for others: journal, events, the snapshot, views. No decision is made here.

use jetway_protocol::controller_api::BackendEvent;
use jetway_protocol::drone_api::BackendView;
use jetway_protocol::state::{BackendState, Event};
use jetway_protocol::status::{End, Status, StatusEntry};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::{Stage, StageName};

use super::Snapshot;
use super::actor::Actor;
use crate::journal::Record;

impl Actor {
    /// Takes a step of the state machine and tells everybody. A step that is not allowed is a fault of ours; it is
    /// logged and changes nothing.
    pub(super) fn step(&mut self, event: Event, end: Option<End>) -> bool {
        let state = match self.state.clone().next(event) {
            Ok(state) => state,
            Err(error) => {
                tracing::error!(backend = %self.id, %error, "a step that cannot be taken");
                return false;
            }
        };
        self.enter(state, end);
        true
    }

    pub(super) fn enter(&mut self, state: BackendState, end: Option<End>) {
        let entry = StatusEntry { status: state.status(), at: UnixMicros::now(), end };
        let reason = entry.end.as_ref().and_then(|end| serde_json::to_value(end.reason).ok());
        let reason = reason.as_ref().and_then(serde_json::Value::as_str);
        tracing::info!(backend = %self.id, status = %entry.status, reason);
        self.state = state;
        self.history.push(entry.clone());
        self.record(&Record::Status { entry: entry.clone(), state: self.state.clone() });
        self.show();
        let event = BackendEvent {
            backend: self.id.clone(),
            fencing_token: self.put.fencing_token,
            entry,
            timeline: self.timeline.clone(),
        };
        let _nobody_listens_here = self.agent.events.send(event.clone());
        self.agent.outbox.push(event);
    }

    pub(super) fn stage(&mut self, stage: Stage) {
        self.record(&Record::Stage { stage: stage.clone() });
        self.timeline.push(stage);
    }

    /// A stage that began at `start` and ends now.
    pub(super) fn stage_until_now(&mut self, stage: StageName, start: UnixMicros, note: &str) {
        let length_us = UnixMicros::now().since(start);
        self.stage(Stage { stage, start, length_us, note: note.to_owned() });
    }

    pub(super) fn first_byte(&mut self, stage: Stage) {
        if !self.timeline.iter().any(|known| known.stage == StageName::FirstByte) {
            self.stage(stage);
            self.show();
        }
    }

    /// A journal that cannot be written does not end a session: it only will not be adopted as it is.
    pub(super) fn record(&mut self, record: &Record) {
        if let Err(error) = self.journal.append(record) {
            tracing::error!(backend = %self.id, %error, "the journal cannot be written");
        }
    }

    pub(super) fn status(&self) -> Status {
        self.state.status()
    }

    /// With the pull that is under way, and how far it is.
    fn timeline_by_now(&self) -> Vec<Stage> {
        let mut timeline = self.timeline.clone();
        let loading = self.history.last().filter(|entry| entry.status == Status::Loading);
        if let Some(entry) = loading
            && let Some((bytes, bytes_total)) = self.agent.runtime.pull_progress(&self.put.spec.executable)
        {
            let (start, length_us) = (entry.at, UnixMicros::now().since(entry.at));
            let note = format!("pulling: {bytes} of {bytes_total} bytes");
            timeline.push(Stage { stage: StageName::Pulled, start, length_us, note });
        }
        timeline
    }

    pub(super) fn view(&self) -> BackendView {
        BackendView {
            id: self.id.clone(),
            fencing_token: self.put.fencing_token,
            key: self.put.key.clone(),
            status: self.status(),
            history: self.history.clone(),
            timeline: self.timeline_by_now(),
            grants: self.grants.views(),
            connections: self.idle.connections(),
            listening_elsewhere: self.listening_elsewhere.iter().map(ToString::to_string).collect(),
            address: self.address.map(|address| address.to_string()),
            on_isolation: Some(self.put.spec.on_isolation),
            subdomain: self.put.spec.subdomain.clone(),
            use_static_token: self.put.spec.use_static_token,
        }
    }

    fn show(&mut self) {
        self.outward.send_replace(Snapshot {
            state: self.state.clone(),
            history: self.history.clone(),
            timeline: self.timeline.clone(),
        });
        self.show_stage();
    }
}
