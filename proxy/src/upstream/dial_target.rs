//! From an admission to a new connection: the address to dial, asked again where the
//! drone's word may be out of date, before the dial and after it.

use std::net::SocketAddr;
use std::sync::Arc;

use jetway_protocol::ids::GrantId;
use jetway_protocol::spec::Port;
use tokio::time::Instant;

use crate::attach::{Admission, BackendKey, DialVia, Drone};
use crate::problem::Problem;

/// Connects whose address the drone no longer vouched for when they were made.
const DIALS_MAX: u32 = 3;

/// The addresses of a backend's port, as the drone gives them.
pub struct DialTargets<'a> {
    key: &'a BackendKey,
    grant: GrantId,
    drone: &'a Arc<Drone>,
    admission: &'a Admission,
    port: Port,
    /// The request is held for its drone until then.
    until: Instant,
    /// In the first one's place, where the drone was asked again.
    again: Option<Admission>,
    calls: u32,
}

/// One address to dial, under one admission.
pub struct DialTarget<'a> {
    pub key: &'a BackendKey,
    pub address: SocketAddr,
    pub door: &'a DialVia,
    grant: GrantId,
    drone: &'a Drone,
}

impl<'a> DialTargets<'a> {
    pub fn new(
        (key, grant): (&'a BackendKey, GrantId),
        drone: &'a Arc<Drone>,
        admission: &'a Admission,
        port: Port,
        until: Instant,
    ) -> Self {
        Self { key, grant, drone, admission, port, until, again: None, calls: 0 }
    }

    /// The next one to dial, as the drone says it by now.
    pub async fn next(&mut self) -> Result<DialTarget<'_>, Problem> {
        if self.calls == DIALS_MAX {
            return Err(Problem::DroneSilent);
        }
        self.calls += 1;
        let hold = self.until.saturating_duration_since(Instant::now());
        if let Some(again) = self.drone.enter_again(self.key, self.grant, hold).await? {
            self.again = Some(again);
        }
        let Admission { entry, door, .. } = self.again.as_ref().unwrap_or(self.admission);
        let address = SocketAddr::new(entry.address.ip(), self.port.port);
        Ok(DialTarget { key: self.key, address, door, grant: self.grant, drone: self.drone })
    }
}

impl DialTarget<'_> {
    /// Whether the address is still the backend's. Asked between the connect and the first byte:
    /// the stream may have fallen meanwhile, and another session may have been given the address.
    pub fn is_vouched(&self) -> bool {
        self.drone.vouches_for(self.key, self.grant)
    }
}
