//! This proxy as an attach stream introduces it, and the handles for dialling one.

use jetway_protocol::ids::{BootId, ProxyId};
use jetway_service::client::Client;
use jetway_service::lifecycle::Lifecycle;
use tokio_util::sync::CancellationToken;

/// This process, for every stream.
#[derive(Debug)]
pub struct Identity {
    pub proxy: ProxyId,
    pub name: String,
    pub boot_id: BootId,
    /// The network namespace, as the drone compares it.
    pub netns: String,
    /// The credential for drones.
    pub bearer: String,
    pub controllers: Vec<String>,
    /// For asking a controller where a drone is now.
    pub client: Client,
    pub lifecycle: Lifecycle,
    /// Ends the streams: after the last closes of clients, before our own.
    pub stop: CancellationToken,
}
