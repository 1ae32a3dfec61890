//! The inits of the fake engine: what they say, and what they make of what they are told, by their [`super::Script`].

use jetway_protocol::ids::SlotId;
use jetway_protocol::init::{Ahead, AheadState, FromInit, Hello, Session, SessionState, ToInit};

use super::{Application, ContainerStatus, Fake, LineEvent};

impl Fake {
    pub(super) fn exits(&self, slot: SlotId, code: i32, oom_killed: bool) {
        let backend = {
            let mut inner = self.inner();
            let Some(container) = inner.containers.get_mut(&slot) else { return };
            if !matches!(container.status, ContainerStatus::Running { .. }) {
                return;
            }
            container.status = ContainerStatus::Exited { code, oom_killed };
            container.session.as_ref().map(|session| session.backend.clone())
        };
        if let Some(backend) = backend {
            self.say(slot, LineEvent::Message(FromInit::Exited { backend, code: Some(code), signal: None }));
        }
        self.say(slot, LineEvent::Disconnected);
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn hello(&self, slot: SlotId) {
        let inner = self.inner();
        let Some(container) = inner.containers.get(&slot) else { return };
        if !matches!(container.status, ContainerStatus::Running { .. }) || inner.script.init_is_silent {
            return;
        }
        let state = |session: &Session| SessionState {
            backend: session.backend.clone(),
            fencing_token: session.fencing_token,
            pid: Some(7),
            ready: (inner.script.application == Application::BecomesReady)
                .then(|| "0.0.0.0:8080".parse().unwrap()),
            stopping: !container.stops.is_empty(),
            lease_over: inner.script.lease_over,
        };
        if container.session.is_some() && inner.script.application == Application::TakesInitsPlace {
            return;
        }
        let session = container.session.as_ref().map(state);
        let ahead = container.ahead.as_ref().filter(|_| session.is_none());
        let ahead = ahead.map(|_| AheadState { pid: 7, ready: None });
        let (nonce, boot_id) = (container.nonce.clone(), inner.script.boot_id);
        let hello = Hello { version: 1, nonce, boot_id, session, ahead };
        drop(inner);
        self.say(slot, LineEvent::Connected(hello));
    }

    pub(super) fn hears(&self, slot: SlotId, message: ToInit) {
        let application = self.inner().script.application;
        match message {
            ToInit::Session(_) if self.inner().script.sessions_get_lost => {
                drop(self.called("lost session"));
            }
            ToInit::Session(session) => self.takes(slot, *session),
            ToInit::Stop { signal, .. } => {
                self.called(&format!("stop {signal}"));
                if let Some(container) = self.inner().containers.get_mut(&slot) {
                    container.stops.push(signal);
                }
                if application != Application::IgnoresStop {
                    self.exits(slot, 128 + signal, false);
                }
            }
            ToInit::Ahead(ahead) => self.goes_ahead(slot, *ahead),
            ToInit::LookAtLease => drop(self.called("look_at_lease")),
            ToInit::Ping => self.say(slot, LineEvent::Message(FromInit::Pong)),
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// One session, ever.
    fn takes(&self, slot: SlotId, session: Session) {
        self.called("session");
        let application = self.inner().script.application;
        let backend = session.backend.clone();
        {
            let mut inner = self.inner();
            let dies = inner.script.inits_that_die_at_claims.checked_sub(1);
            inner.script.inits_that_die_at_claims = dies.unwrap_or(0);
            let Some(container) = inner.containers.get_mut(&slot) else { return };
            if !container.claims.contains(&backend) {
                container.claims.push(backend.clone());
            }
            if dies.is_some() {
                container.session = None;
                drop(inner);
                return self.exits(slot, 137, false);
            }
            if let Some(taken_by) = container.session.as_ref().map(|session| session.backend.clone())
                && taken_by != backend
            {
                drop(inner);
                return self.say(slot, LineEvent::Message(FromInit::Refused { backend, taken_by }));
            }
            container.session = Some(session);
        }
        if application == Application::TakesInitsPlace {
            return self.say(slot, LineEvent::Disconnected);
        }
        if self.inner().script.claim_replies_get_lost {
            return drop(self.called("lost claim reply"));
        }
        self.say(slot, LineEvent::Message(FromInit::Started { backend: backend.clone(), pid: 7 }));
        let address = "0.0.0.0:8080".parse().unwrap();
        match application {
            Application::BecomesReady | Application::IgnoresStop => {
                self.say(slot, LineEvent::Message(FromInit::Ready { backend, address }));
            }
            Application::ListensElsewhere => {
                let addresses = vec!["127.0.0.1:8080".parse().unwrap()];
                self.say(slot, LineEvent::Message(FromInit::ListeningElsewhere { backend, addresses }));
            }
            Application::ExitsAtOnce(code) => self.exits(slot, code, false),
            Application::NeverListens | Application::TakesInitsPlace => {}
        }
    }

    fn goes_ahead(&self, slot: SlotId, ahead: Ahead) {
        self.called("ahead");
        let application = {
            let mut inner = self.inner();
            let Some(container) = inner.containers.get_mut(&slot) else { return };
            container.ahead = Some(ahead);
            inner.script.application
        };
        self.say(slot, LineEvent::Message(FromInit::AheadStarted { pid: 7 }));
        match application {
            Application::ExitsAtOnce(code) => {
                let message = format!("it exited with status {code}");
                self.say(slot, LineEvent::Message(FromInit::AheadFailed { message }));
                self.exits(slot, code, false);
            }
            Application::NeverListens | Application::ListensElsewhere => {}
            _ => {
                let address = "0.0.0.0:8080".parse().unwrap();
                self.say(slot, LineEvent::Message(FromInit::AheadReady { address }));
            }
        }
    }
}
