//! What a backend's task does for its core: journal, lines, engine, proxies, the agent's books. No
//! decision is made here; to a question, the answer goes back as the next event.

use std::collections::HashSet;
use std::time::Duration;

use jetway_protocol::attach::{Entry, Outcome, Stage, ToProxy};
use jetway_protocol::ids::{ProxyId, SlotId};
use jetway_protocol::init::ToInit;
use jetway_protocol::key::Key;
use jetway_protocol::status::EndReason;
use tokio::time::Instant;

use super::actor::Actor;
use super::calls;
use super::core::{Action, Asking, Door, Event, Parting, TakenSlot};
use super::start_task;
use crate::books::addresses::Ended;
use crate::books::streams::Stream;
use crate::store::journal::{Place, Record, Tombstone};
use crate::teardown;
use crate::warm::Sandbox;
use crate::warm::take::{self, Taken};

impl Actor {
    pub(super) fn carry_out(&mut self, action: Action) {
        match action {
            Action::Record(record) => self.record(&record),
            Action::Show(snapshot) => drop(self.handles.outward.send_replace(*snapshot)),
            Action::Report(event) => {
                let _nobody_listens_here = self.agent.reports.events.send((*event).clone());
                self.agent.reports.outbox.push(*event);
            }
            Action::Tidy { again } => self.tidy(again),

            Action::Tell(message) => drop(self.tell(message)),
            Action::Signal { signal, grace_ms } => {
                let sent = self.tell(ToInit::Stop { signal, grace_ms });
                self.on(Event::SignalSent(sent));
            }
            Action::Claim(records) => {
                let written = self.handles.journal.append_all(&records);
                self.on(Event::Claimed(written.map_err(|error| unwritten(&error))));
            }
            Action::GiveSession(session) => {
                let sent = self.tell(ToInit::Session(session));
                self.on(Event::SessionSent(sent));
            }
            Action::DropLine => self.line = None,

            Action::Push(stream, message) => drop(stream.push(message)),
            Action::PushStage { stream, ask, stage } => self.push_stage(&stream, ask, stage),
            Action::LetIn { asking, entry, is_a_persons } => self.let_in(&asking, entry, is_a_persons),
            Action::TellProxies(message) => self.tell_proxies(&message),
            Action::Close(stream) => stream.close(),

            Action::TakeSlot => self.take_slot(),
            Action::TakeSandbox => {
                let sandbox = take::take_sandbox(&self.agent, self.core.id());
                self.on(Event::SandboxTaken(sandbox));
            }
            Action::MakePlace(sandbox) => {
                let made = self.make_place(sandbox);
                self.on(Event::PlaceMade(made));
            }
            Action::Start { place, give_up } => self.start(place, give_up),
            Action::InitCame => self.starting.iter().for_each(start_task::Starting::init_came),
            Action::StopStart => {
                let may_exist = self.starting.take().is_none_or(|starting| starting.stop());
                self.on(Event::StartStopped { may_exist });
            }
            Action::DropStart => self.starting = None,
            Action::LetGo(place) => teardown::unused(&self.agent, place),
            Action::Call(slot, call) => calls::begin(&self.jobs, &self.agent.engine, slot, call),
            Action::NameContainer(slot, key) => self.name_container(slot, key),
            Action::Took(length) => self.agent.usual.took(&self.core.put().spec.executable.image, length),

            Action::Bury(tombstone) => self.bury(*tombstone),
            Action::Unlist => drop(self.agent.backends.by_id.remove(self.core.id())),
            Action::GiveBack(parting) => self.give_back(*parting),
        }
    }

    fn record(&mut self, record: &Record) {
        if let Err(error) = self.handles.journal.append(record) {
            let (id, key) = (self.core.id(), self.core.key_name());
            tracing::error!(backend = %id, key, %error, "the journal cannot be written");
        }
    }

    pub(super) fn tidy(&mut self, again: Duration) {
        if self.handles.journal.tidy(self.core.grants()) {
            self.on(Event::Door(Door::MoreToTidy { again }));
        }
    }

    /// Never waits: false means that init does not read.
    fn tell(&self, message: ToInit) -> bool {
        self.line.as_ref().is_some_and(|line| line.commands.try_send(message).is_ok())
    }

    fn push_stage(&self, stream: &Stream, ask: u64, stage: Stage) {
        let usual = self.agent.usual.of(&self.core.put().spec.executable.image);
        let usual_ms = usual.map(|usual| u64::try_from(usual.as_millis()).unwrap_or(u64::MAX));
        stream.push(ToProxy::Stage { ask, stage: Stage { usual_ms, ..stage } });
    }

    fn let_in(&mut self, asking: &Asking, entry: Box<Entry>, is_a_persons: bool) {
        let (proxy, grant) = (asking.stream.proxy, asking.grant);
        let answer = ToProxy::Answer { ask: asking.ask, outcome: Outcome::Ready(entry) };
        let was_sent = asking.stream.push(answer);
        self.on(Event::Door(Door::LetIn { proxy, grant, was_sent, is_a_persons }));
    }

    fn tell_proxies(&self, message: &ToProxy) {
        for proxy in self.may_know_the_address() {
            self.agent.streams.push(proxy, message.clone());
        }
    }

    /// The proxies that a client was let in through, by an action before this one, too; and all that
    /// are attached, where an agent before this one may have let clients in.
    fn may_know_the_address(&self) -> HashSet<ProxyId> {
        let mut proxies: HashSet<ProxyId> = self.core.told().collect();
        if self.core.is_adopted() {
            proxies.extend(self.agent.streams.proxies());
        }
        proxies
    }

    /// A hot slot, a parked one: the first that serves.
    fn take_slot(&mut self) {
        let taken = take::take_slot(&self.agent, self.core.id(), &self.core.put().spec.executable);
        let taken = taken.map(|Taken { tier, slot, why }| {
            self.line = Some(slot.line);
            let (address, image, hello) = (slot.address, slot.image, slot.hello);
            Box::new(TakenSlot { slot: slot.slot, address, tier, image, hello, why })
        });
        self.on(Event::SlotTaken(taken));
    }

    fn make_place(&mut self, sandbox: Option<Sandbox>) -> Result<Place, (EndReason, String)> {
        let address = match sandbox {
            Some(sandbox) => sandbox.address,
            None => {
                self.agent.take_address().map_err(|error| (EndReason::CreateFailed, error.to_string()))?
            }
        };
        let place = Place { slot: SlotId::random(), address, sandbox: sandbox.map(|sandbox| sandbox.id) };
        let tier = Some(place.tier());
        let record = Record::Slot { slot: place.slot, address, sandbox: place.sandbox, tier };
        if let Err(error) = self.handles.journal.append(&record) {
            match place.sandbox {
                Some(sandbox) => teardown::unused_sandbox(&self.agent, sandbox, address),
                None => self.agent.addresses().give_back(address),
            }
            return Err((EndReason::Internal, unwritten(&error)));
        }
        self.agent.holders.slots.insert(place.slot, self.core.id().clone());
        Ok(place)
    }

    fn start(&mut self, place: Place, give_up: Instant) {
        let executable = self.core.put().spec.executable.clone();
        let id = self.core.id().clone();
        self.starting = Some(start_task::begin(
            &self.agent.engine,
            &self.agent.lifecycle,
            place,
            id,
            executable,
            give_up,
        ));
    }

    /// Nothing waits for it.
    fn name_container(&self, slot: SlotId, key: Key) {
        if !self.agent.engine.runtime.names_by_key() {
            return;
        }
        let (agent, id) = (self.agent.clone(), self.core.id().clone());
        self.agent.lifecycle.spawn_until_stopped(async move {
            if let Err(error) = agent.engine.runtime.name_after(slot, &key).await {
                tracing::debug!(backend = %id, %error, "its container keeps its own name");
            }
        });
    }

    fn bury(&self, tombstone: Tombstone) {
        let set = self.agent.tombstones().set(tombstone);
        if let Err(error) = set {
            let (id, key) = (self.core.id(), self.core.key_name());
            tracing::error!(backend = %id, key, %error, "a tombstone cannot be written");
        }
    }

    fn give_back(&self, parting: Parting) {
        let Parting { end, place, is_there, session } = parting;
        let told = self.may_know_the_address();
        let (backend, fencing_token) = (self.core.id().clone(), self.core.fencing_token());
        for proxy in &told {
            let (backend, end) = (backend.clone(), end.clone());
            self.agent.streams.push(*proxy, ToProxy::Ended { backend, fencing_token, end });
        }
        let Some(place) = place else { return };
        let ended = Ended { backend, fencing_token, end };
        self.agent.addresses().release(place.address, ended, told, Instant::now());
        // Its line goes with this task, and the key is free: removing what is left holds nothing
        // up.
        teardown::ended(&self.agent, place, is_there, session);
    }
}

fn unwritten(error: &std::io::Error) -> String {
    format!("the drone's journal cannot be written: {error}")
}
