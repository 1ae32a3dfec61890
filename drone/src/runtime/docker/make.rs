//! Making a slot's container, and what this process then knows of it. Not its business: what it is made of
//! ([`super::container_spec`]), and starting it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::limiter::{Call, Class};
use super::shared::{Made, SlotRecord};
use super::{DockerRuntime, container, container_spec, mount, names, owner, slot_dirs};
use crate::lease;
use crate::runtime::{CreateRequest, RuntimeError, init_line};

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
            can_limit_disk: self.facts.can_limit_disk,
            data_mount: mount.as_ref().map(|mount| mount.path.as_path()),
        };
        let body = container_spec::container(request, &surroundings)?;
        let class = if request.backend.is_some() { Class::Start } else { Class::Ahead };
        let (turn, name) = (self.limiter.next_turn(), names::container(request.slot));
        let making = container::create(&self.shared.engine, &name, body);
        let is_new = self.limiter.call(class, turn, Call::Create, making).await?;
        if let Some(mount) = &mount {
            self.finish_mount(request, mount).await;
        }
        if is_new || self.record(request.slot).is_none_or(|record| record.made.is_none()) {
            let made = Made {
                address: request.executable.network_name.is_none().then_some(request.address),
                sandbox: request.sandbox,
                mount: mount.map(|mount| mount.identity),
                queue: (class, turn),
                // Made by an earlier call, whose answer was lost: only what the engine says of it counts.
                was_started: AtomicBool::new(!is_new),
            };
            let record = SlotRecord { made: Some(made), ..SlotRecord::default() };
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
        let resolved = tokio::task::spawn_blocking(move || mount::resolve(&base, &path)).await;
        match resolved {
            Ok(Ok(mount)) => Ok(Some(mount)),
            Ok(Err(error)) => Err(RuntimeError::Refused(error.to_string())),
            Err(error) => Err(RuntimeError::Engine(error.to_string())),
        }
    }

    /// A directory that was just made gets the container's user for its owner.
    async fn finish_mount(&self, request: &CreateRequest, mount: &mount::DataMount) {
        if !mount.is_unfinished {
            return;
        }
        let user = owner::User::of(container_spec::user(&request.executable, &request.image));
        let (engine, name) = (&self.shared.engine, names::container(request.slot));
        let owner = owner::on_host(engine, &name, &user, self.facts.remapped_root).await;
        let is_known = matches!(owner, Ok(Some(_))) || matches!(user, owner::User::Root);
        if !is_known {
            let path = mount.path.display();
            tracing::warn!(%path, ?user, ?owner, "the owner of a new mount directory is not known: it is root's");
        }
        mount.finish(owner.ok().flatten());
    }
}
