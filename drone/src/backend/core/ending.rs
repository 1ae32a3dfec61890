//! The end of a backend: what is said of it, as a pure function, and what is given back. It is
//! reached only when the engine has said that nothing runs.

use std::net::SocketAddr;

use jetway_protocol::hint;
use jetway_protocol::init::EXIT_LEASE_OVER;
use jetway_protocol::state::{BackendState, Event as Step};
use jetway_protocol::status::{End, EndReason, TerminationKind};

use super::{Action, Claim, Core, Finish, Parting};
use crate::runtime::ContainerStatus;
use crate::store::journal::Tombstone;

/// All that an end can be told from.
#[derive(Debug, Clone)]
struct Facts<'a> {
    stop: Option<(TerminationKind, EndReason)>,
    failure: Option<(EndReason, String)>,
    status: ContainerStatus,
    /// The application's own status, where init has said it.
    said: Option<i32>,
    is_under_lease: bool,
    /// Its sandbox died, and the drone ended it for that.
    was_cut_off: bool,
    was_ready: bool,
    ran: bool,
    port: u16,
    start_timeout_seconds: u32,
    elsewhere: &'a [SocketAddr],
    memory_limit_bytes: i64,
}

impl Core {
    pub(super) fn end(&mut self, status: ContainerStatus, output: String, was_cut_off: bool) {
        // Also where somebody else has removed the container: its slot's directory is still there.
        let is_there =
            self.ending.finish.is_some_and(|how| how != Finish::Remove || status != ContainerStatus::Absent);
        let elsewhere = hint::misplaced(&self.put.spec.executable.ports, &self.session.listening_elsewhere);
        let ran = self.session.claim != Claim::Parked;
        let end = scrubbed(End {
            output,
            ..describe(&Facts {
                stop: self.stop_under_way(),
                failure: self.ending.failure.clone(),
                status,
                said: self.session.exit_code,
                is_under_lease: self.now.lease.is_some_and(|lease| lease.is_kept),
                was_cut_off,
                was_ready: self.life.was_ready,
                ran,
                port: self.put.spec.executable.port,
                start_timeout_seconds: self.put.spec.start_timeout_seconds,
                elsewhere: &elsewhere,
                memory_limit_bytes: self.put.spec.executable.memory_limit_bytes(),
            })
        });
        self.bury(end.clone());
        self.step(Step::Gone { end: end.clone() }, Some(end.clone()));
        self.act(Action::Unlist);
        self.tell_waiting(&end);
        let parting =
            Parting { end, place: self.seat.place.take(), is_there, session: ran.then(|| self.id.clone()) };
        self.act(Action::GiveBack(Box::new(parting)));
    }

    fn bury(&mut self, end: End) {
        let (id, fencing_token, at) = (self.id.clone(), Some(self.put.fencing_token), self.now.wall);
        self.act(Action::Bury(Box::new(Tombstone { id, fencing_token, end, at })));
    }

    fn stop_under_way(&self) -> Option<(TerminationKind, EndReason)> {
        match self.life.state {
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
    let ended_by_lease =
        facts.is_under_lease && exit_code == Some(EXIT_LEASE_OVER) && facts.said != exit_code;
    // Init's own status then, not the application's.
    let exit_code = if ended_by_lease { facts.said } else { exit_code };
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
    if ended_by_lease {
        // Init began to stop it while no agent was there to hear so.
        let reason = EndReason::LeaseExpired;
        return end(reason, stop_message(facts, reason));
    }
    let code = exit_code.map_or_else(|| "an unknown status".to_owned(), |code| format!("status {code}"));
    if oom_killed {
        return end(
            EndReason::OutOfMemory,
            format!(
                "it was killed because it needed more than its {} of memory: raise \
                 spawn_config.executable.resource_limits.memory_limit_bytes",
                in_mebibytes(facts.memory_limit_bytes)
            ),
        );
    }
    if facts.was_cut_off {
        let message = "its network was lost: the container that held it for the session ended".to_owned();
        return end(EndReason::Lost, message);
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
        _ => end(EndReason::of_exit(exit_code), format!("it exited with {code}")),
    }
}

fn in_mebibytes(bytes: i64) -> String {
    const MEBIBYTE: i64 = 1024 * 1024;
    if bytes % MEBIBYTE == 0 { format!("{} MiB", bytes / MEBIBYTE) } else { format!("{bytes} bytes") }
}

fn stop_message(facts: &Facts<'_>, reason: EndReason) -> String {
    let Facts { port, start_timeout_seconds: seconds, elsewhere, .. } = facts;
    match reason {
        EndReason::StartTimeout => format!("it did not listen on port {port} within {seconds} seconds"),
        EndReason::ListeningElsewhere => {
            format!("it {}", hint::listens_elsewhere(*port, elsewhere).unwrap_or_default())
        }
        reason => reason.sentence().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ELSEWHERE: [SocketAddr; 1] =
        [SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 3000)];

    fn usual() -> Facts<'static> {
        Facts {
            stop: None,
            failure: None,
            status: ContainerStatus::Exited { code: 3, oom_killed: false },
            said: None,
            is_under_lease: true,
            was_cut_off: false,
            was_ready: true,
            ran: true,
            port: 8080,
            start_timeout_seconds: 60,
            elsewhere: &[],
            memory_limit_bytes: 512 * 1024 * 1024,
        }
    }

    fn check(change: impl FnOnce(&mut Facts<'static>), reason: EndReason, message: &str) {
        let mut facts = usual();
        change(&mut facts);
        let end = describe(&facts);
        assert_eq!(end.reason, reason, "{facts:?}");
        assert!(end.message.contains(message), "{:?}", end.message);
    }

    #[test]
    fn every_end_has_its_reason() {
        use EndReason as R;
        let oom = ContainerStatus::Exited { code: 137, oom_killed: true };
        let by_a_signal = ContainerStatus::Exited { code: 139, oom_killed: false };
        check(|f| f.status = ContainerStatus::Exited { code: 0, oom_killed: false }, R::Exited, "status 0");
        check(|_| {}, R::Crashed, "status 3");
        check(|f| f.status = by_a_signal.clone(), R::Crashed, "status 139");
        let by_lease = ContainerStatus::Exited { code: EXIT_LEASE_OVER, oom_killed: false };
        check(|f| f.status = by_lease.clone(), R::LeaseExpired, "could not renew its lease");
        check(|f| (f.status, f.said) = (by_lease.clone(), Some(0)), R::LeaseExpired, "its lease");
        let stop = Some((TerminationKind::Soft, R::LeaseExpired));
        let facts = Facts { said: Some(0), status: by_lease.clone(), stop, ..usual() };
        assert_eq!((describe(&facts).reason, describe(&facts).exit_code), (R::LeaseExpired, Some(0)));
        let own = Some(EXIT_LEASE_OVER);
        check(|f| (f.status, f.said) = (by_lease.clone(), own), R::Crashed, "status 75");
        check(|f| (f.status, f.is_under_lease) = (by_lease.clone(), false), R::Crashed, "status 75");
        check(|f| f.was_ready = false, R::ExitedBeforeReady, "status 3 before it listened on port 8080");
        check(|f| f.status = ContainerStatus::Absent, R::Lost, "removed by somebody else");
        check(
            |f| f.status = oom.clone(),
            R::OutOfMemory,
            "512 MiB of memory: raise spawn_config.executable.resource_limits.memory_limit_bytes",
        );
        check(|f| (f.status, f.was_ready) = (oom.clone(), false), R::OutOfMemory, "memory");
        check(|f| f.was_cut_off = true, R::Lost, "its network was lost");
        check(|f| (f.was_cut_off, f.was_ready) = (true, false), R::Lost, "its network was lost");
        check(
            |f| (f.was_cut_off, f.stop) = (true, Some((TerminationKind::Soft, R::Idle))),
            R::Idle,
            "nobody used it",
        );
        check(|f| (f.ran, f.was_ready) = (false, false), R::CreateFailed, "before it was used");
        check(|f| f.failure = Some((R::PullFailed, "no route".into())), R::PullFailed, "no route");
        check(|f| f.stop = Some((TerminationKind::Soft, R::Idle)), R::Idle, "nobody used it");
        check(
            |f| f.stop = Some((TerminationKind::Hard, R::StartTimeout)),
            R::StartTimeout,
            "within 60 seconds",
        );
        check(
            |f| {
                f.stop = Some((TerminationKind::Hard, R::ListeningElsewhere));
                f.elsewhere = &ELSEWHERE;
            },
            R::ListeningElsewhere,
            "it listens on 0.0.0.0:3000, and Jetway looks for it on port 8080",
        );
    }
}
