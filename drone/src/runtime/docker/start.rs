//! Starting a slot's container: at most once, and only with the mount that was checked. Not its business: making it.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use jetway_protocol::ids::SlotId;

use super::limiter::{Call, Class, Turn};
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
        self.start_now(slot, made.queue, made.sandbox.is_some()).await?;
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
        let Some(inspected) = container::inspect(engine, &self.shared.readable.container(slot)).await? else {
            return Err(RuntimeError::Absent);
        };
        if inspected.has_data_mount && mount.is_none() {
            return Err(RuntimeError::Refused(
                "it has a mount that an earlier process checked: make the container anew".to_owned(),
            ));
        }
        match inspected.status {
            ContainerStatus::Created => {
                let queue = (Class::Start, self.limiter.next_turn());
                self.start_now(slot, queue, inspected.joined.is_some()).await?;
            }
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

    /// A container that cannot join its network is not started at all, whichever of the engine's words that is told in.
    async fn start_now(
        &self,
        slot: SlotId,
        (class, turn): (Class, Turn),
        is_joined: bool,
    ) -> Result<(), RuntimeError> {
        let (engine, name) = (&self.shared.engine, self.shared.readable.container(slot));
        let kind = if is_joined { Call::StartJoined } else { Call::Start };
        match self.limiter.call(class, turn, kind, container::start(engine, &name)).await {
            // Engines from 28 on answer 500 to it.
            Err(RuntimeError::Refused(message) | RuntimeError::Engine(message))
                if is_joined && is_about_the_joined(&message) =>
            {
                tracing::warn!(%slot, message, "the sandbox is gone");
                Err(RuntimeError::SandboxGone)
            }
            Err(RuntimeError::Absent) if is_joined => {
                let is_there = container::inspect(engine, &name).await?.is_some();
                Err(if is_there { RuntimeError::SandboxGone } else { RuntimeError::Absent })
            }
            outcome => outcome,
        }
    }

    async fn address(&self, slot: SlotId) -> Result<IpAddr, RuntimeError> {
        let engine = &self.shared.engine;
        let Some(inspected) = container::inspect(engine, &self.shared.readable.container(slot)).await? else {
            return Err(RuntimeError::Absent);
        };
        match inspected.status {
            ContainerStatus::Running { .. } => {
                container::address(engine, &inspected).await?.ok_or_else(|| {
                    RuntimeError::Refused("the container has no address on its network".to_owned())
                })
            }
            ContainerStatus::Exited { code, .. } => {
                Err(RuntimeError::Refused(format!("it ended at once, with {code}")))
            }
            ContainerStatus::Created => {
                Err(RuntimeError::Engine("it was started and does not run".to_owned()))
            }
            ContainerStatus::Absent => Err(RuntimeError::Absent),
        }
    }

    /// The engine looked the mount's path up by itself: what it found must be what was checked. Init is parked, so
    /// nothing of the session has run yet.
    async fn check_mount(&self, slot: SlotId, expected: mount::Identity) -> Result<(), RuntimeError> {
        let name = self.shared.readable.container(slot);
        let Some(inspected) = container::inspect(&self.shared.engine, &name).await? else {
            return Err(RuntimeError::Absent);
        };
        match mount::mounted(inspected.pid) {
            Some(found) if found != expected => {
                container::kill(&self.shared.engine, &name, SIGKILL).await?;
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

/// As Docker says that the container of a `container:` network does not run, or is not there.
fn is_about_the_joined(message: &str) -> bool {
    ["non running container", "joining network namespace of container", "No such container"]
        .iter()
        .any(|sign| message.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_say_of_a_gone_sandbox_is_known() {
        for (message, expect) in [
            // 20.10 and 28.5, of one that does not run: 409.
            ("cannot join network of a non running container: 5d1f", true),
            ("cannot join network namespace of a non running container: container 5d1f is created", true),
            // Of one that is gone: 404 from 20.10, 500 from 28.5.
            ("No such container: 5d1f", true),
            ("joining network namespace of container: No such container: 5d1f", true),
            ("driver failed programming external connectivity on endpoint x", false),
            ("", false),
        ] {
            assert_eq!(is_about_the_joined(message), expect, "{message}");
        }
    }
}
