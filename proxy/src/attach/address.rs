//! Where a drone is dialled.

use std::time::Duration;

use jetway_protocol::controller_api::DroneAddress;

use super::drone::Drone;
use super::identity::Identity;

/// A controller's answer to where a drone is.
const LOOKUP_MAX: Duration = Duration::from_secs(2);

/// Where a drone may be: the token's word, and, once that has failed, a controller's.
#[derive(Debug, Default)]
pub struct Addresses {
    other: Option<String>,
    prefer_other: bool,
    failures: u32,
}

impl Addresses {
    pub fn next(&self, from_token: String) -> String {
        match &self.other {
            Some(other) if self.prefer_other => other.clone(),
            _ => from_token,
        }
    }

    pub fn works(&mut self, address: String) {
        self.failures = 0;
        self.prefer_other = self.other.as_ref() == Some(&address);
    }

    pub fn failed(&mut self, _address: String) {
        self.failures = self.failures.saturating_add(1);
        self.prefer_other = !self.prefer_other;
    }

    pub fn add(&mut self, found: String) {
        self.other = Some(found);
    }
}

/// A controller is asked at the second failure and every eighth after it: a restarting agent is
/// soon back.
pub async fn look_up(drone: &Drone, identity: &Identity, addresses: &mut Addresses) -> Option<String> {
    if addresses.failures % 8 != 2 {
        return None;
    }
    for controller in &identity.controllers {
        let url = format!("{}/internal/drones/{}", controller.trim_end_matches('/'), drone.id);
        match identity.client.get::<DroneAddress>(&url, LOOKUP_MAX).await {
            Ok(found) => return Some(found.advertise),
            Err(reason) => tracing::debug!(drone = %drone.id, %reason, "no address from a controller"),
        }
    }
    None
}
