//! The end of a backend: what is said of it, as a pure function, and what is given back. It is reached only when the
//! engine has said that nothing runs.

use jetway_protocol::attach::{Outcome, ToProxy};
use jetway_protocol::state::{BackendState, Event};
use jetway_protocol::status::{End, EndReason, TerminationKind};
use jetway_protocol::time::UnixMicros;
use tokio::time::Instant;

use super::actor::{Actor, Claim};
use super::engine::Finish;
use crate::addresses::Ended;
use crate::journal::Tombstone;
use crate::runtime::ContainerStatus;
use crate::teardown;

/// All that an end can be told from.
#[derive(Debug, Clone)]
struct Facts<'a> {
    stop: Option<(TerminationKind, EndReason)>,
    failure: Option<(EndReason, String)>,
    status: ContainerStatus,
    was_ready: bool,
    ran: bool,
    port: u16,
    start_timeout_seconds: u32,
    elsewhere: &'a str,
}

impl Actor {
    pub(super) fn end(&mut self, status: ContainerStatus, output: String) {
        // Also where somebody else has removed the container: its slot's directory is still there.
        let is_there =
            self.finish.is_some_and(|how| how != Finish::Remove || status != ContainerStatus::Absent);
        let elsewhere: Vec<String> = self.listening_elsewhere.iter().map(ToString::to_string).collect();
        let end = scrubbed(End {
            output,
            ..describe(&Facts {
                stop: self.stop_under_way(),
                failure: self.failure.clone(),
                status,
                was_ready: self.was_ready,
                ran: self.claim != Claim::Parked,
                port: self.put.spec.executable.port,
                start_timeout_seconds: self.put.spec.start_timeout_seconds,
                elsewhere: &elsewhere.join(", "),
            })
        });
        let tombstone = Tombstone {
            id: self.id.clone(),
            fencing_token: Some(self.put.fencing_token),
            end: end.clone(),
            at: UnixMicros::now(),
        };
        // Before the end is known to anybody: a late PUT must find it.
        let set = self.agent.tombstones().set(tombstone);
        if let Err(error) = set {
            tracing::error!(backend = %self.id, %error, "a tombstone cannot be written");
        }
        self.step(Event::Gone { end: end.clone() }, Some(end.clone()));
        self.agent.backends.remove(&self.id);
        self.tell_proxies(&end);
        self.give_back(end, is_there);
    }

    fn stop_under_way(&self) -> Option<(TerminationKind, EndReason)> {
        match self.state {
            BackendState::Terminating { reason } => Some((TerminationKind::Soft, reason)),
            BackendState::HardTerminating { reason } => Some((TerminationKind::Hard, reason)),
            BackendState::Scheduled
            | BackendState::Loading
            | BackendState::Starting
            | BackendState::Waiting { .. }
            | BackendState::Ready { .. }
            | BackendState::Terminated { .. } => None,
        }
    }

    fn tell_proxies(&mut self, end: &End) {
        for waiting in self.waiting.drain(..) {
            let outcome = Outcome::Ended { end: end.clone() };
            waiting.asking.stream.push(ToProxy::Answer { ask: waiting.asking.ask, outcome });
        }
        if self.adopted {
            self.told.extend(self.agent.streams.proxies());
        }
        for proxy in &self.told {
            let (backend, fencing_token) = (self.id.clone(), self.put.fencing_token);
            self.agent.streams.push(*proxy, ToProxy::Ended { backend, fencing_token, end: end.clone() });
        }
    }

    fn give_back(&mut self, end: End, is_there: bool) {
        let Some(place) = self.place.take() else { return };
        let ended = Ended { backend: self.id.clone(), fencing_token: self.put.fencing_token, end };
        let told = std::mem::take(&mut self.told);
        self.agent.addresses().release(place.address, ended, told, Instant::now());
        // Its line goes with this task, and the key is free: removing what is left holds nobody up.
        teardown::ended(&self.agent, place, is_there);
    }
}

/// What engines and applications say may hold NULs, and no database takes those as text.
fn scrubbed(end: End) -> End {
    let scrub = |text: String| if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
    End { message: scrub(end.message), output: scrub(end.output), ..end }
}

fn describe(facts: &Facts<'_>) -> End {
    let (exit_code, oom_killed) = match facts.status {
        ContainerStatus::Exited { code, oom_killed } => (Some(code), oom_killed),
        ContainerStatus::Absent | ContainerStatus::Created | ContainerStatus::Running { .. } => (None, false),
    };
    let end = |reason, message: String| End {
        reason,
        kind: facts.stop.map(|(kind, _)| kind),
        exit_code,
        oom_killed,
        message,
        output: String::new(),
    };
    if let Some((_, reason)) = facts.stop {
        return end(reason, stop_message(facts, reason));
    }
    if let Some((reason, message)) = &facts.failure {
        return end(*reason, message.clone());
    }
    let code = exit_code.map_or_else(|| "an unknown status".to_owned(), |code| format!("status {code}"));
    if oom_killed {
        return end(
            EndReason::OutOfMemory,
            "it was killed because it used more memory than its limit".to_owned(),
        );
    }
    match facts.status {
        ContainerStatus::Absent => {
            end(EndReason::Lost, "its container was removed by somebody else".to_owned())
        }
        _ if !facts.ran => {
            end(EndReason::CreateFailed, format!("its container exited with {code} before it was used"))
        }
        _ if !facts.was_ready => end(
            EndReason::ExitedBeforeReady,
            format!("it exited with {code} before it listened on port {}", facts.port),
        ),
        _ => end(EndReason::Exited, format!("it exited with {code}")),
    }
}

fn stop_message(facts: &Facts<'_>, reason: EndReason) -> String {
    let Facts { port, start_timeout_seconds: seconds, elsewhere, .. } = facts;
    match reason {
        EndReason::StartTimeout => format!("it did not listen on port {port} within {seconds} seconds"),
        EndReason::ListeningElsewhere => format!(
            "it listens on {elsewhere}, where nobody can reach it: let it listen on 0.0.0.0:{port} or [::]:{port}"
        ),
        EndReason::Idle => "nobody used it any more".to_owned(),
        EndReason::Lifetime => "its lifetime was over".to_owned(),
        EndReason::External => "somebody stopped it".to_owned(),
        EndReason::LeaseExpired => "its drone could not renew its lease".to_owned(),
        EndReason::Exited
        | EndReason::OutOfMemory
        | EndReason::ImageNotFound
        | EndReason::PullFailed
        | EndReason::CreateFailed
        | EndReason::ExitedBeforeReady
        | EndReason::Lost
        | EndReason::Refused
        | EndReason::Internal => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Facts<'static>), reason: EndReason, message: &str) {
        let mut facts = Facts {
            stop: None,
            failure: None,
            status: ContainerStatus::Exited { code: 3, oom_killed: false },
            was_ready: true,
            ran: true,
            port: 8080,
            start_timeout_seconds: 60,
            elsewhere: "127.0.0.1:8080",
        };
        change(&mut facts);
        let end = describe(&facts);
        assert_eq!(end.reason, reason, "{facts:?}");
        assert!(end.message.contains(message), "{:?}", end.message);
    }

    #[test]
    fn every_end_has_its_reason() {
        use EndReason as R;
        let oom = ContainerStatus::Exited { code: 137, oom_killed: true };
        check(|_| {}, R::Exited, "status 3");
        check(|f| f.was_ready = false, R::ExitedBeforeReady, "status 3 before it listened on port 8080");
        check(|f| f.status = ContainerStatus::Absent, R::Lost, "removed by somebody else");
        check(|f| f.status = oom.clone(), R::OutOfMemory, "memory");
        check(|f| (f.status, f.was_ready) = (oom.clone(), false), R::OutOfMemory, "memory");
        check(|f| (f.ran, f.was_ready) = (false, false), R::CreateFailed, "before it was used");
        check(|f| f.failure = Some((R::PullFailed, "no route".into())), R::PullFailed, "no route");
        check(|f| f.stop = Some((TerminationKind::Soft, R::Idle)), R::Idle, "nobody used it");
        check(
            |f| f.stop = Some((TerminationKind::Hard, R::StartTimeout)),
            R::StartTimeout,
            "within 60 seconds",
        );
        check(
            |f| f.stop = Some((TerminationKind::Hard, R::ListeningElsewhere)),
            R::ListeningElsewhere,
            "127.0.0.1:8080",
        );
    }
}
