//! The inits of the fake engine: what they say, and what they make of what they are told, by their [`super::Script`].

use jetway_protocol::ids::{BackendId, SlotId};
use jetway_protocol::init::{Ahead, AheadState, FromInit, Hello, Session, SessionState, ToInit};

use super::{Application, ContainerStatus, Death, Fake, LineEvent};

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
        self.say(slot, LineEvent::Disconnected { heard_all: true });
        self.changes.send_modify(|count| *count += 1);
    }

    /// Killed: it says nothing any more.
    fn dies(&self, slot: SlotId) {
        let heard_all = {
            let mut inner = self.inner();
            let heard_all = !inner.script.last_words_get_lost;
            let Some(container) = inner.containers.get_mut(&slot) else { return };
            container.status = ContainerStatus::Exited { code: 137, oom_killed: false };
            heard_all
        };
        self.say(slot, LineEvent::Disconnected { heard_all });
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
        let writes_ahead = inner.script.writes_ahead;
        let hello = Hello { version: 1, nonce, boot_id, session, ahead, writes_ahead };
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

    /// One session, ever: read, said to be taken, executed, and said to run. It may be killed
    /// between any two of these.
    fn takes(&self, slot: SlotId, session: Session) {
        self.called("session");
        let backend = session.backend.clone();
        let (script, death) = {
            let mut inner = self.inner();
            let Some(container) = inner.containers.get_mut(&slot) else { return };
            if !container.claims.contains(&backend) {
                container.claims.push(backend.clone());
            }
            if let Some(taken_by) = container.session.as_ref().map(|session| session.backend.clone())
                && taken_by != backend
            {
                drop(inner);
                return self.say(slot, LineEvent::Message(FromInit::Refused { backend, taken_by }));
            }
            let deaths = &mut inner.script.deaths;
            let death = if deaths.is_empty() { None } else { Some(deaths.remove(0)) };
            (inner.script.clone(), death)
        };
        if death == Some(Death::Untaken) {
            return self.dies(slot);
        }
        let is_first = {
            let mut inner = self.inner();
            let Some(container) = inner.containers.get_mut(&slot) else { return };
            container.session.replace(session).is_none()
        };
        if is_first && script.writes_ahead && !(death.is_some() && script.last_words_get_lost) {
            self.say(slot, LineEvent::Message(FromInit::Taken { backend: backend.clone() }));
        }
        if death == Some(Death::Taken) {
            return self.dies(slot);
        }
        if is_first {
            self.inner().executions.push(backend.clone());
        }
        if death == Some(Death::Executed) {
            return self.dies(slot);
        }
        self.runs(slot, backend);
    }

    fn runs(&self, slot: SlotId, backend: BackendId) {
        let application = self.inner().script.application;
        if application == Application::TakesInitsPlace {
            return self.say(slot, LineEvent::Disconnected { heard_all: true });
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
