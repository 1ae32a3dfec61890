//! What a test does to the fake engine: tells it how to behave, sees what was asked of it, and lets things happen.

use std::sync::Arc;

use jetway_protocol::ids::{BackendId, SlotId};
use jetway_protocol::init::FromInit;
use jetway_service::lifecycle::Lifecycle;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use super::{Container, ContainerStatus, Fake, Inner, LineEvent, Sandbox, Script};

impl Fake {
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.inner().script);
    }

    pub fn containers(&self) -> Vec<Container> {
        self.inner().containers.values().cloned().collect()
    }

    pub fn sandboxes(&self) -> Vec<Sandbox> {
        self.inner().sandboxes.values().cloned().collect()
    }

    /// Its tag means another image from now on.
    pub fn image_becomes(&self, id: &str) {
        self.script(|script| script.image_id = id.to_owned());
        self.images.send_modify(|count| *count += 1);
    }

    /// One that is not told to anybody: only init's line breaks.
    pub fn dies_unseen(&self, slot: SlotId) {
        self.exits(slot, 137, false);
    }

    pub fn kill_sandboxes(&self) {
        self.inner().sandboxes.values_mut().for_each(|sandbox| {
            sandbox.status = ContainerStatus::Exited { code: 137, oom_killed: false };
        });
    }

    /// How often an application was executed for this backend, whatever became of it.
    pub fn executions(&self, backend: &str) -> usize {
        self.inner().executions.iter().filter(|id| id.as_str() == backend).count()
    }

    pub fn calls(&self) -> Vec<String> {
        self.inner().calls.clone()
    }

    /// A process of its own accord, as the engine's events would tell.
    pub fn application_exits(&self, code: i32, oom_killed: bool) {
        let slots: Vec<_> = self.inner().containers.keys().copied().collect();
        for slot in slots {
            self.exits(slot, code, oom_killed);
            let _nobody_listens = self.hints.send(slot);
        }
    }

    /// What an engine looks like after its agent has died: lines are gone, containers go on.
    pub fn agent_died(&self, lifecycle: Lifecycle) -> Arc<Self> {
        let mut inner = self.inner();
        let containers = std::mem::take(&mut inner.containers);
        let sandboxes = std::mem::take(&mut inner.sandboxes);
        let (script, executions) = (inner.script.clone(), inner.executions.clone());
        let inner = Inner { script, containers, sandboxes, executions, ..Inner::default() };
        Arc::new(Self {
            inner: Mutex::new(inner),
            changes: watch::Sender::new(0),
            images: watch::Sender::new(0),
            hints: broadcast::Sender::new(64),
            losses: watch::Sender::new(0),
            lifecycle,
        })
    }

    /// Every init that waits comes to its line.
    pub fn inits_come(&self) {
        self.script(|script| script.init_is_silent = false);
        let slots: Vec<_> = self.inner().containers.keys().copied().collect();
        slots.into_iter().for_each(|slot| self.hello(slot));
    }

    pub fn set_status(&self, slot: SlotId, status: ContainerStatus) {
        if let Some(container) = self.inner().containers.get_mut(&slot) {
            container.status = status;
        }
    }

    pub fn set_all(&self, status: ContainerStatus) {
        self.inner().containers.values_mut().for_each(|container| container.status = status.clone());
    }

    /// What its init says once the application has opened a port that is not the session's.
    pub fn says_elsewhere(&self, backend: &BackendId, place: &str) {
        let (backend, addresses) = (backend.clone(), vec![place.parse().unwrap()]);
        let slots: Vec<_> = self.inner().containers.keys().copied().collect();
        let message = FromInit::ListeningElsewhere { backend, addresses };
        slots.into_iter().for_each(|slot| self.say(slot, LineEvent::Message(message.clone())));
    }

    /// By somebody, by force: their processes go with them.
    pub fn all_are_removed(&self) {
        self.set_all(ContainerStatus::Absent);
        let slots: Vec<_> = self.inner().containers.keys().copied().collect();
        slots.into_iter().for_each(|slot| self.say(slot, LineEvent::Disconnected { heard_all: true }));
    }

    /// As the engine's event stream does when it was opened anew.
    pub fn hint_all(&self) {
        let slots: Vec<_> = self.inner().containers.keys().copied().collect();
        slots.into_iter().for_each(|slot| drop(self.hints.send(slot)));
    }

    pub fn hint_nobody(&self) {
        let _nobody_listens = self.hints.send(SlotId::random());
    }

    /// As the engine's event stream does when it breaks.
    pub fn loses_its_events(&self) {
        self.losses.send_modify(|count| *count += 1);
    }

    pub fn put_container(&self, slot: SlotId, container: Container) {
        self.inner().containers.insert(slot, container);
    }

    pub async fn until(&self, what: impl Fn(&[Container], &[String]) -> bool) {
        let mut changes = self.changes.subscribe();
        while !what(&self.containers(), &self.calls()) {
            changes.changed().await.unwrap();
        }
    }
}
