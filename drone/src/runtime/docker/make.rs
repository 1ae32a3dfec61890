//! Making a slot's container, and what this process then knows of it. Not its business: what it is made of
//! ([`super::container_spec`]), and starting it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jetway_protocol::ids::SlotId;

use super::limiter::{Call, Class, Turn};
use super::{DockerRuntime, container, container_spec, mount, names, slot_dirs};
use crate::lease;
use crate::runtime::{CreateRequest, RuntimeError, init_line};

/// What this process knows of a slot's container without asking.
#[derive(Debug, Default)]
pub struct SlotRecord {
    pub made: Option<Made>,
    /// Docker forgets, on some engines, that it told of an out-of-memory kill.
    pub oom_seen: AtomicBool,
}

#[derive(Debug)]
pub struct Made {
    /// On our own network.
    pub address: Option<Ipv4Addr>,
    pub sandbox: Option<SlotId>,
    pub mount: Option<mount::Identity>,
    /// Who waits for it, and since when.
    pub queue: (Class, Turn),
    /// It is started at most once: a second start would run a container that has ended.
    pub was_started: AtomicBool,
}

impl SlotRecord {
    pub fn note_oom(&self) {
        self.oom_seen.store(true, Ordering::Relaxed);
    }
}

impl DockerRuntime {
    pub(super) async fn make(&self, request: &CreateRequest) -> Result<(), RuntimeError> {
        let mount = self.data_mount(request).await?;
        let slot_dir = slot_dirs::of(&self.shared.config, request.slot);
        init_line::make_directory(&slot_dir)
            .map_err(|error| RuntimeError::Engine(format!("{}: {error}", slot_dir.display())))?;
        let surroundings = container_spec::Surroundings {
            config: &self.shared.config,
            network_id: &self.network.id,
            init_dir: &self.init_dir,
            slot_dir: &slot_dir,
            lease_dir: &lease::file::directory(&self.shared.config.run_dir),
            data_mount: mount.as_ref().map(|mount| mount.path.as_path()),
        };
        let body = container_spec::container(request, &surroundings)?;
        let class = if request.backend.is_some() { Class::Start } else { Class::Ahead };
        let (turn, name) = (self.limiter.next_turn(), names::container(request.slot));
        let making = container::create(&self.shared.engine, &name, body);
        let is_new = self.limiter.call(class, turn, Call::Create, making).await?;
        if is_new || self.record(request.slot).is_none_or(|record| record.made.is_none()) {
            let made = Made {
                address: request.executable.network_name.is_none().then_some(request.address),
                sandbox: request.sandbox,
                mount: mount.map(|mount| mount.identity),
                queue: (class, turn),
                // Made by an earlier call, whose answer was lost: only what the engine says of it counts.
                was_started: AtomicBool::new(!is_new),
            };
            let record = SlotRecord { made: Some(made), oom_seen: AtomicBool::new(false) };
            self.shared.slots.insert(request.slot, Arc::new(record));
        }
        Ok(())
    }

    async fn data_mount(&self, request: &CreateRequest) -> Result<Option<mount::DataMount>, RuntimeError> {
        let Some(path) = request.executable.mount.clone() else { return Ok(None) };
        let Some(base) = self.shared.config.mount_base.clone() else {
            return Err(RuntimeError::NotOffered(
                "this drone has no mount base, so it offers no mounts".to_owned(),
            ));
        };
        let owner = mount::owner_of(container_spec::user(&request.executable, &request.image));
        let resolved = tokio::task::spawn_blocking(move || mount::resolve(&base, &path, owner)).await;
        match resolved {
            Ok(Ok(mount)) => Ok(Some(mount)),
            Ok(Err(error)) => Err(RuntimeError::Refused(error.to_string())),
            Err(error) => Err(RuntimeError::Engine(error.to_string())),
        }
    }
}
