//! The backend's side of the line to its init: what init says and when it is silent. The protocol
//! of the line itself is the runtime's.

use std::net::SocketAddr;
use std::time::Duration;

use jetway_protocol::init::{FromInit, Hello, SessionState, ToInit};
use jetway_protocol::spec::InitMode;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use tokio::time::Instant;

use super::{Action, Call, Claim, Core, Finish};
use crate::runtime::init_line::INIT_SILENCE_MAX;
use crate::runtime::{ContainerStatus, LineEvent, RuntimeError};

/// Init redials within 250 ms; a line that is silent for longer is worth a look at the container.
const SILENCE_BEFORE_LOOK: Duration = Duration::from_millis(500);
/// A signal through the engine before this could be a second one.
pub const REDIAL_PATIENCE: Duration = Duration::from_millis(400);
/// For what an init that is gone has said last, which the kernel has already.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// As an engine tells of a process that a signal ended.
pub const SIGNALLED: i32 = 128;
/// Between tries of calls that the engine did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known of the line. The line itself is the loop's.
#[derive(Debug, Default, Clone)]
pub struct Line {
    /// There is a socket of ours for init to come to.
    is_open: bool,
    pub hello: Option<Hello>,
    /// Since when init is not on the line; `None` while it is.
    pub silent_since: Option<Instant>,
    /// Init says that a session is taken before it begins it.
    writes_ahead: bool,
    words: Words,
    /// Until when the last words of an init that is gone are waited for.
    last_words_by: Option<Instant>,
}

/// How much of what init has said this agent has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Words {
    /// Every connection was read to its end.
    #[default]
    All,
    /// A connection's end has not come yet.
    SomeMayCome,
    /// A connection was given up before its end.
    SomeAreLost,
}

impl Line {
    pub fn set(&mut self, now: Instant) {
        self.is_open = true;
        self.hello = None;
        self.silent_since = Some(now);
    }

    /// That of a slot whose init has been on the line.
    pub fn go_on(&mut self, hello: Option<Hello>, now: Instant) {
        self.is_open = true;
        self.silent_since = hello.is_none().then_some(now);
        self.words = if hello.is_some() { Words::SomeMayCome } else { Words::All };
        self.writes_ahead = hello.as_ref().is_some_and(|hello| hello.writes_ahead);
        self.hello = hello;
    }

    fn connected(&mut self, hello: Hello) {
        self.words = match self.words {
            Words::All => Words::SomeMayCome,
            Words::SomeMayCome | Words::SomeAreLost => Words::SomeAreLost,
        };
        self.writes_ahead = hello.writes_ahead;
        self.silent_since = None;
        self.hello = Some(hello);
    }

    fn disconnected(&mut self, heard_all: bool) {
        self.hello = None;
        if heard_all && self.words == Words::SomeMayCome {
            self.words = Words::All;
        }
    }

    /// The runtime gave it up, with what was not read.
    fn give_up(&mut self) {
        (self.is_open, self.hello) = (false, None);
        if self.words == Words::SomeMayCome {
            self.words = Words::SomeAreLost;
        }
    }

    pub fn writes_ahead(&self) -> bool {
        self.writes_ahead
    }

    pub fn has_heard_all(&self) -> bool {
        self.words == Words::All
    }

    /// Of an init that is gone: whether its last words are still to be waited for.
    pub fn may_say_more(&mut self, now: Instant) -> bool {
        let until = *self.last_words_by.get_or_insert(now + LAST_WORDS);
        self.words == Words::SomeMayCome && now < until
    }

    pub fn is_connected(&self) -> bool {
        self.is_open && self.hello.is_some()
    }
}

impl Core {
    pub(super) fn heard(&mut self, event: LineEvent) {
        match event {
            LineEvent::Connected(hello) => self.connected(hello),
            LineEvent::Message(message) => self.message(message),
            LineEvent::Disconnected { heard_all } => {
                self.line.disconnected(heard_all);
                self.line_fell_silent();
            }
        }
    }

    pub(super) fn line_lost(&mut self) {
        self.line.give_up();
        self.line_fell_silent();
        self.clocks.open_line = Some(self.now.instant + AGAIN);
    }

    fn line_fell_silent(&mut self) {
        let now = self.now.instant;
        self.line.silent_since.get_or_insert(now);
        self.clocks.look = Some(now + SILENCE_BEFORE_LOOK);
    }

    fn connected(&mut self, hello: Hello) {
        if self.seat.is_starting {
            self.act(Action::InitCame);
        }
        let session = hello.session.clone();
        let is_same_init = self.session.nonce.as_ref().is_none_or(|nonce| *nonce == hello.nonce);
        self.line.connected(hello);
        if self.tenure.is_some() && session.is_some() {
            // It may have been away when the deadline came nearer.
            self.tell_init(ToInit::LookAtLease);
        }
        match session {
            Some(session) if is_same_init && self.is_ours(&session) => self.session_reported(&session),
            None if is_same_init => self.hand_over(),
            // Another process than the one that was claimed: the container was restarted, or is
            // somebody else's.
            _ => self.lose("the container's init is not the one that took this session"),
        }
        if self.status() == Status::Terminating && self.session.claim != Claim::Parked {
            self.signal_again();
        }
    }

    fn is_ours(&self, session: &SessionState) -> bool {
        session.backend == self.id && session.fencing_token == self.put.fencing_token
    }

    fn session_reported(&mut self, session: &SessionState) {
        self.taken();
        if session.pid.is_none() {
            return self.finish(Finish::Await);
        }
        self.application_started();
        if session.ready.is_some() {
            self.init_says_ready();
        }
        if session.lease_over {
            // Its stop signal went out while no agent was there to say so.
            self.stop(TerminationKind::Soft, EndReason::LeaseExpired);
        }
    }

    /// Init has said anything of the session: from now on only its end can free the key.
    fn taken(&mut self) {
        if self.session.claim == Claim::Given {
            self.session.claim = Claim::Taken;
        }
    }

    fn message(&mut self, message: FromInit) {
        match message.backend() {
            Some(backend) if *backend == self.id => self.taken(),
            Some(backend) => return self.lose(&format!("the container's init speaks of {backend}")),
            None => {}
        }
        match message {
            FromInit::Taken { .. } => {}
            FromInit::Started { .. } => self.application_started(),
            FromInit::Ready { .. } => self.init_says_ready(),
            FromInit::ListeningElsewhere { addresses, .. } => self.listens_elsewhere(addresses),
            FromInit::StartFailed { message, .. } => {
                self.ending.failure.get_or_insert((EndReason::ExitedBeforeReady, message));
                self.finish(Finish::Await);
            }
            FromInit::LeaseOver { .. } => {
                let message = "the drone's lease was over before it was started".to_owned();
                self.ending.failure.get_or_insert((EndReason::LeaseExpired, message));
                self.finish(Finish::Await);
            }
            FromInit::Exited { code, signal, .. } => {
                self.session.exit_code = code.or(signal.map(|signal| SIGNALLED + signal));
                self.finish(Finish::Await);
            }
            FromInit::Refused { taken_by, .. } => self.lose(&format!("the container belongs to {taken_by}")),
            // Of a slot's life before its session.
            FromInit::AheadStarted { .. } | FromInit::AheadReady { .. } | FromInit::AheadFailed { .. } => {}
            FromInit::Hello(_) | FromInit::Pong => {}
        }
    }

    /// Told at once to all who follow the start: it may go on for a minute before it fails.
    fn listens_elsewhere(&mut self, addresses: Vec<SocketAddr>) {
        self.session.listening_elsewhere = addresses;
        if let Some(hint) = self.hint() {
            tracing::warn!(backend = %self.id, key = self.key_name(), hint = hint.message, "a start is held up");
        }
        self.show();
    }

    /// The process that was this backend's cannot be reached any more: whatever is in its place
    /// goes.
    fn lose(&mut self, message: &str) {
        self.ending.failure.get_or_insert((EndReason::Lost, message.to_owned()));
        self.finish(Finish::Kill);
    }

    pub(super) fn open_line(&mut self) {
        if self.seat.place.is_some() {
            self.call(Call::OpenLine { nonce: self.session.nonce.clone() });
        }
    }

    pub(super) fn line_not_opened(&mut self, error: &RuntimeError) {
        tracing::warn!(backend = %self.id, key = self.key_name(), %error, "the line to init cannot be opened yet");
        self.clocks.open_line = Some(self.now.instant + AGAIN);
    }

    pub(super) fn look(&mut self) {
        if self.seat.place.is_some() && self.ending.finish.is_none() && !self.seat.is_starting {
            self.call(Call::Look);
        }
    }

    pub(super) fn looked(&mut self, found: Result<ContainerStatus, RuntimeError>) {
        let now = self.now.instant;
        match found {
            Ok(ContainerStatus::Running { paused, .. }) => self.judge_silence(paused, now),
            // An engine that was killed over its start may have forgotten it: init's word counts.
            Ok(ContainerStatus::Created) if self.session.claim != Claim::Parked => {
                self.judge_silence(false, now)
            }
            Ok(_) => self.finish(Finish::Await),
            Err(error) => {
                tracing::warn!(backend = %self.id, key = self.key_name(), %error, "the engine does not say whether the container runs");
                self.clocks.look = Some(now + AGAIN);
            }
        }
    }

    /// An init that was given its session, that runs, and that is not on the line has become the
    /// application.
    fn judge_exec_silence(&mut self, since: Instant, paused: bool, now: Instant) {
        if !matches!(self.session.claim, Claim::Given | Claim::Taken) {
            return;
        }
        let patience = since + REDIAL_PATIENCE;
        if paused || !self.line.is_open {
            self.line.silent_since = Some(now);
            self.clocks.look = Some(now + AGAIN);
        } else if now < patience {
            self.clocks.look = Some(patience);
        } else {
            self.application_started();
        }
    }

    /// A silent init cannot take a stop or keep a lease; only a paused one has an excuse.
    fn judge_silence(&mut self, paused: bool, now: Instant) {
        let exec = self.put.spec.executable.init == InitMode::Exec && self.session.claim != Claim::Parked;
        let Some(since) = self.line.silent_since else { return };
        if exec {
            return self.judge_exec_silence(since, paused, now);
        }
        let patience = since + INIT_SILENCE_MAX;
        // A paused init cannot come, and without a socket of ours none can.
        if paused || !self.line.is_open {
            self.line.silent_since = Some(now);
            self.clocks.look = Some(now + INIT_SILENCE_MAX);
        } else if now < patience {
            self.clocks.look = Some(patience);
        } else {
            self.ending.failure.get_or_insert((
                EndReason::Lost,
                format!("its init did not answer for {} seconds", INIT_SILENCE_MAX.as_secs()),
            ));
            self.finish(Finish::Kill);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        let nonce = "n".to_owned();
        Hello { version: 1, nonce, boot_id: None, session: None, ahead: None, writes_ahead: true }
    }

    /// What happens to the line, and whether all is heard then: a connection (`c`), one that was
    /// read to its end (`e`) or given up (`x`), and a line that the runtime gave up (`l`).
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_given_up_stays_lost() {
        for (events, heard_all) in [
            ("", true),
            ("c", false),
            ("ce", true),
            ("cece", true),
            ("cx", false),
            ("cxce", false),
            ("cce", false),
            ("cl", false),
            ("clce", false),
            ("cel", true),
        ] {
            let mut line = Line::default();
            for event in events.chars() {
                match event {
                    'c' => line.connected(hello()),
                    'l' => line.give_up(),
                    end => line.disconnected(end == 'e'),
                }
            }
            assert_eq!(line.has_heard_all(), heard_all, "{events}");
            let is_open = events.ends_with('c') || events == "cx";
            assert_eq!(line.may_say_more(Instant::now()), is_open, "{events}: its last words are waited for");
            tokio::time::advance(LAST_WORDS).await;
            assert!(!line.may_say_more(Instant::now()), "{events}: and not for ever");
        }
    }
}
