//! What a backend's task is asked by the rest of its agent, as events for its core, and the
//! answers.

use jetway_protocol::drone_api::BackendView;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::GrantId;
use jetway_protocol::status::Status;
use jetway_protocol::time::UnixMicros;

use super::actor::Actor;
use super::core::{CROWD_PATIENCE, Coming, Door, Event};
use super::handle::{Command, NotAdded};
use crate::store::journal::Record;

impl Actor {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::AddGrant { grant, reply } => drop(reply.send(self.add_grant(grant))),
            Command::Revoke { user, reply } => {
                let gone = self.core.grants().of_user(&user);
                let count = u32::try_from(gone.len()).unwrap_or(u32::MAX);
                self.on(Event::Door(Door::Revoke(gone)));
                let _asked_no_more = reply.send(count);
            }
            Command::Stop { kind, reason, reply } => {
                self.on(Event::Stop { kind, reason });
                drop(reply.send(self.view(None)));
            }
            Command::View { grant, reply } => drop(reply.send(self.view(grant))),
            Command::FirstByte(stage) => self.on(Event::FirstByte(stage)),
            Command::Look => self.on(Event::Look),
            Command::Proxy(word) => {
                let is_outdated = self.agent.streams.is_outdated(word.stream());
                self.on(Event::Proxy { word, is_outdated });
            }
        }
    }

    /// The journal has it before the answer says so.
    fn add_grant(&mut self, grant: Grant) -> Result<Status, NotAdded> {
        let status = self.core.status();
        if status.is_ending() {
            return Ok(status);
        }
        let id = grant.id;
        if let Some(coming) = self.core.coming(grant, UnixMicros::now()) {
            self.handles.journal.append_all(&records(&coming))?;
            self.on(Event::Door(Door::GrantWritten(coming)));
            self.tidy(CROWD_PATIENCE);
        }
        self.on(Event::Door(Door::Connected(id)));
        Ok(status)
    }

    fn view(&mut self, grant: Option<GrantId>) -> BackendView {
        let is_loading = self.core.status() == Status::Loading;
        let pull =
            is_loading.then(|| self.agent.engine.runtime.pull_progress(&self.core.put().spec.executable));
        self.core.view(grant, pull.flatten(), self.now())
    }
}

fn records(coming: &Coming) -> Vec<Record> {
    let mut records = vec![Record::Grant { grant: coming.grant.clone(), at: coming.at }];
    if !coming.going.is_empty() {
        records.push(Record::Revoked { grants: coming.going.clone() });
    }
    records
}
