//! The steps of a backend's life, and what others are shown of it: journal, events, the snapshot,
//! views. Why a step is taken is decided elsewhere.

use jetway_protocol::controller_api::BackendEvent;
use jetway_protocol::drone_api::BackendView;
use jetway_protocol::hint::Hint;
use jetway_protocol::ids::GrantId;
use jetway_protocol::state::{BackendState, Event as Step};
use jetway_protocol::status::{End, Status, StatusEntry};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::{Stage, StageName};
use tokio::time::Instant;

use super::{Action, Core, Now, Snapshot};
use crate::idle::Verdict;
use crate::store::journal::Record;

impl Core {
    /// Takes a step of the state machine and tells everybody. A step that is not allowed is a fault
    /// of ours; it is logged and changes nothing.
    pub(super) fn step(&mut self, step: Step, end: Option<End>) {
        match self.life.state.clone().next(step) {
            Ok(state) => self.enter(state, end),
            Err(error) => {
                tracing::error!(backend = %self.id, key = self.key_name(), %error, "a step that cannot be taken");
            }
        }
    }

    fn enter(&mut self, state: BackendState, end: Option<End>) {
        let entry = StatusEntry { status: state.status(), at: self.now.wall, end };
        let reason = entry.end.as_ref().and_then(|end| serde_json::to_value(end.reason).ok());
        let reason = reason.as_ref().and_then(serde_json::Value::as_str);
        tracing::info!(backend = %self.id, key = self.key_name(), status = %entry.status, reason);
        self.life.state = state.clone();
        self.life.history.push(entry.clone());
        self.act(Action::Record(Record::Status { entry: entry.clone(), state }));
        self.show();
        self.act(Action::Report(Box::new(BackendEvent {
            backend: self.id.clone(),
            fencing_token: self.put.fencing_token,
            entry,
            timeline: self.life.timeline.clone(),
        })));
    }

    pub(super) fn stage(&mut self, stage: Stage) {
        self.act(Action::Record(Record::Stage { stage: stage.clone() }));
        self.life.timeline.push(stage);
    }

    /// The stage that is under way ends now, and the next one begins.
    pub(super) fn stage_until_now(&mut self, stage: StageName, note: String) {
        let start = std::mem::replace(&mut self.seat.stage_start, self.now.wall);
        self.stage(Stage { stage, start, length_us: self.now.wall.since(start), note });
    }

    pub(super) fn has_stage(&self, name: StageName) -> bool {
        self.life.timeline.iter().any(|known| known.stage == name)
    }

    pub(super) fn first_byte(&mut self, stage: Stage) {
        if !self.has_stage(StageName::FirstByte) {
            self.stage(stage);
            self.show();
        }
    }

    /// With the pull that is under way, and how far it is.
    fn timeline_by_now(&self, now: UnixMicros, pull: Option<(u64, u64)>) -> Vec<Stage> {
        let mut timeline = self.life.timeline.clone();
        let loading = self.life.history.last().filter(|entry| entry.status == Status::Loading);
        if let Some(entry) = loading
            && let Some((bytes, bytes_total)) = pull
        {
            let (start, length_us) = (entry.at, now.since(entry.at));
            let note = format!("pulling: {bytes} of {bytes_total} bytes");
            timeline.push(Stage { stage: StageName::Pulled, start, length_us, note });
        }
        timeline
    }

    /// When it is stopped because nobody uses it, as things stand.
    pub(super) fn idle_until(&mut self, now: Instant) -> Option<Instant> {
        match self.doors.idle.verdict(now) {
            Verdict::Wait(until) if self.status() == Status::Ready => until,
            _ => None,
        }
    }

    /// With its newest grants, or one of them alone. `pull`: bytes that came so far and bytes in
    /// all, while its image is being pulled.
    pub fn view(&mut self, grant: Option<GrantId>, pull: Option<(u64, u64)>, now: Now) -> BackendView {
        let idle_until = self.idle_until(now.instant);
        let left_ms = |until: Instant| {
            let left = until.saturating_duration_since(now.instant);
            u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
        };
        BackendView {
            id: self.id.clone(),
            fencing_token: self.put.fencing_token,
            key: self.put.key.clone(),
            status: self.status(),
            history: self.life.history.clone(),
            timeline: self.timeline_by_now(now.wall, pull),
            grants: self.doors.grants.views(grant),
            connections: self.doors.idle.connections(),
            hint: self.hint(),
            idle_in_ms: idle_until.map(left_ms),
            lifetime_in_ms: self.clocks.lifetime.map(left_ms),
            listening_elsewhere: self.session.listening_elsewhere.iter().map(ToString::to_string).collect(),
            address: self.seat.address.map(|address| address.to_string()),
            on_isolation: Some(self.put.spec.on_isolation),
            subdomain: self.put.spec.subdomain.clone(),
            use_static_token: self.put.spec.use_static_token,
        }
    }

    /// What holds the start up, as far as init has said. Once it is ready, or stops, there is none.
    pub(super) fn hint(&self) -> Option<Hint> {
        if self.status() >= Status::Ready {
            return None;
        }
        let executable = &self.put.spec.executable;
        Hint::of_listeners(executable.port, &executable.ports, &self.session.listening_elsewhere)
    }

    pub(super) fn show(&mut self) {
        self.act(Action::Show(Box::new(Snapshot {
            state: self.life.state.clone(),
            history: self.life.history.clone(),
            timeline: self.life.timeline.clone(),
            hint: self.hint(),
        })));
        self.show_stage();
    }
}
