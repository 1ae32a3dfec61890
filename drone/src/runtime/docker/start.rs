//! Starting a slot's container: at most once, and only with the mount that was checked. Not its business: making it.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use jetway_protocol::ids::SlotId;

use super::{DockerRuntime, container, mount};
use crate::runtime::{ContainerStatus, RuntimeError};

const SIGKILL: i32 = 9;

impl DockerRuntime {
    pub(super) async fn start_once(&self, slot: SlotId) -> Result<IpAddr, RuntimeError> {
        let record = self.record(slot);
        let Some(made) = record.as_ref().and_then(|record| record.made.as_ref()) else {
            return self.start_again(slot, None).await;
        };
        if made.was_started.swap(true, Ordering::AcqRel) {
            return self.start_again(slot, made.mount).await;
        }
        container::start(&self.shared.engine, slot).await?;
        if let Some(expected) = made.mount {
            self.check_mount(slot, expected).await?;
        }
        match made.address {
            Some(address) => Ok(IpAddr::V4(address)),
            None => self.address(slot).await,
        }
    }

    /// A container of an earlier process, or one that was started before: only what the engine says counts.
    async fn start_again(
        &self,
        slot: SlotId,
        mount: Option<mount::Identity>,
    ) -> Result<IpAddr, RuntimeError> {
        let engine = &self.shared.engine;
        let Some(inspected) = container::inspect(engine, slot).await? else {
            return Err(RuntimeError::Absent);
        };
        if inspected.has_data_mount && mount.is_none() {
            return Err(RuntimeError::Refused(
                "it has a mount that an earlier process checked: make the container anew".to_owned(),
            ));
        }
        match inspected.status {
            ContainerStatus::Created => container::start(engine, slot).await?,
            ContainerStatus::Running { .. } => {}
            ContainerStatus::Exited { .. } => {
                return Err(RuntimeError::Refused("it has run and ended; a slot runs once".to_owned()));
            }
            ContainerStatus::Absent => return Err(RuntimeError::Absent),
        }
        if let Some(expected) = mount {
            self.check_mount(slot, expected).await?;
        }
        self.address(slot).await
    }

    async fn address(&self, slot: SlotId) -> Result<IpAddr, RuntimeError> {
        match container::inspect(&self.shared.engine, slot).await?.map(|inspected| inspected.status) {
            Some(ContainerStatus::Running { address: Some(address), .. }) => Ok(address),
            Some(ContainerStatus::Running { address: None, .. }) => {
                Err(RuntimeError::Refused("the container has no address on its network".to_owned()))
            }
            Some(ContainerStatus::Exited { code, .. }) => {
                Err(RuntimeError::Refused(format!("it ended at once, with {code}")))
            }
            Some(ContainerStatus::Created) => {
                Err(RuntimeError::Engine("it was started and does not run".to_owned()))
            }
            Some(ContainerStatus::Absent) | None => Err(RuntimeError::Absent),
        }
    }

    /// The engine looked the mount's path up by itself: what it found must be what was checked. Init is parked, so
    /// nothing of the session has run yet.
    async fn check_mount(&self, slot: SlotId, expected: mount::Identity) -> Result<(), RuntimeError> {
        let Some(inspected) = container::inspect(&self.shared.engine, slot).await? else {
            return Err(RuntimeError::Absent);
        };
        match mount::mounted(inspected.pid) {
            Some(found) if found != expected => {
                container::kill(&self.shared.engine, slot, SIGKILL).await?;
                Err(RuntimeError::Refused("its mount was exchanged while it was being made".to_owned()))
            }
            Some(_) => Ok(()),
            None => {
                tracing::debug!(%slot, "the container's mount cannot be looked at from here");
                Ok(())
            }
        }
    }
}
