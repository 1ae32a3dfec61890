//! How what we make on the engine is called: containers, the network, its bridge, the firewall table, the labels.
//! All of it follows from ids, so that every call can be repeated. Not its business: making any of it.

use std::collections::HashMap;

use jetway_protocol::ids::{DroneId, InstallationId, SlotId};

pub const LABEL_INSTALLATION: &str = "jetway.installation";
pub const LABEL_DRONE: &str = "jetway.drone";
pub const LABEL_ROLE: &str = "jetway.role";
pub const LABEL_SLOT: &str = "jetway.slot";
pub const LABEL_BACKEND: &str = "jetway.backend";
/// The sandbox that a container joined.
pub const LABEL_SANDBOX: &str = "jetway.sandbox";

pub const ROLE_SLOT: &str = "slot";
/// Holds a network namespace that a slot's container joins.
pub const ROLE_SANDBOX: &str = "sandbox";
pub const ROLE_NETWORK: &str = "network";
/// A one-shot container that closes the host's ports to the sessions' network.
pub const ROLE_NET_GUARD: &str = "net-guard";

/// The image of sandboxes: empty. Another tag, should it ever have to be made in another way.
pub const SANDBOX_IMAGE: &str = "jetway-sandbox";
pub const SANDBOX_IMAGE_TAG: &str = "1";

/// Hexadecimal digits of a slot's id in the path of its socket, which may have only 107 bytes.
const SLOT_DIGITS: usize = 12;
const DRONE_DIGITS: usize = 12;
/// A network interface's name has at most 15 bytes.
const BRIDGE_DIGITS: usize = 8;

pub fn container(slot: SlotId) -> String {
    format!("jetway-{}", slot.0.simple())
}

pub fn sandbox(sandbox: SlotId) -> String {
    format!("jetway-sandbox-{}", sandbox.0.simple())
}

pub fn slot_directory(slot: SlotId) -> String {
    digits(&slot.0, SLOT_DIGITS)
}

pub fn network(drone: DroneId) -> String {
    format!("jetway-{}", digits(&drone.0, DRONE_DIGITS))
}

pub fn bridge(drone: DroneId) -> String {
    format!("jw-{}", digits(&drone.0, BRIDGE_DIGITS))
}

pub fn firewall_table(drone: DroneId) -> String {
    format!("jetway_{}", digits(&drone.0, BRIDGE_DIGITS))
}

/// The labels on everything of this drone.
pub fn labels(installation: InstallationId, drone: DroneId, role: &str) -> HashMap<String, String> {
    HashMap::from([
        (LABEL_INSTALLATION.to_owned(), installation.to_string()),
        (LABEL_DRONE.to_owned(), drone.to_string()),
        (LABEL_ROLE.to_owned(), role.to_owned()),
    ])
}

/// The engine's filter for what [`labels`] marks, as its query parameter wants it. Without a role: in any.
pub fn filter(installation: InstallationId, drone: DroneId, role: Option<&str>) -> serde_json::Value {
    let mut labels = vec![format!("{LABEL_INSTALLATION}={installation}"), format!("{LABEL_DRONE}={drone}")];
    labels.extend(role.map(|role| format!("{LABEL_ROLE}={role}")));
    serde_json::json!({ "label": labels })
}

fn digits(id: &uuid::Uuid, count: usize) -> String {
    let mut text = id.simple().to_string();
    text.truncate(count);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_where_they_go() {
        let drone = DroneId::random();
        assert_eq!(bridge(drone).len(), 11);
        assert!(bridge(drone).len() <= 15);
        assert_eq!(network(drone).len(), 19);
        assert_eq!(slot_directory(SlotId::random()).len(), 12);
    }
}
