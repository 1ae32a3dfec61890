//! Messages between our own processes: what was read is the same once it was written and read again, so that nobody on the way
//! changes what another has said.

use std::any::type_name;
use std::fmt::Debug;

use jetway_protocol::controller_api::{
    DroneAddress, Events, Heartbeat, HeartbeatReply, ProxyHeartbeat, ProxyRegistered, Register, Registered,
    Stale,
};
use jetway_protocol::drone_api::{
    AddGrant, AddGrants, BackendView, DeleteBackend, DeleteReply, Draining, GrantReply, GrantsReply,
    Inventory, PutBackend, Refusal, Revoke, RevokeReply, SetWarm, Stop,
};
use jetway_protocol::error::ErrorBody;
use jetway_protocol::init::{FromInit, ToInit};
use jetway_protocol::status::StatusEntry;
use jetway_protocol::warm::{ClaimRequest, WarmLoad, WarmTargets};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::warm::pool::Template;

/// `bytes`: one message of any kind.
pub fn messages(bytes: &[u8]) {
    controllers_and_drones(bytes);
    controllers_and_others(bytes);
    again::<FromInit>(bytes);
    again::<ToInit>(bytes);
    again::<ClaimRequest>(bytes);
    again::<StatusEntry>(bytes);
    // What lies in Postgres in between.
    again::<Template>(bytes);
    if let Some([read, written]) = again::<WarmTargets>(bytes) {
        // A drone whose fingerprint is another one is told its targets anew, each second.
        assert_eq!(read.fingerprint(), written.fingerprint(), "{read:?}");
    }
}

fn controllers_and_drones(bytes: &[u8]) {
    again::<PutBackend>(bytes);
    again::<AddGrant>(bytes);
    again::<AddGrants>(bytes);
    again::<GrantReply>(bytes);
    again::<GrantsReply>(bytes);
    again::<Revoke>(bytes);
    again::<RevokeReply>(bytes);
    again::<Stop>(bytes);
    again::<DeleteBackend>(bytes);
    again::<DeleteReply>(bytes);
    again::<Draining>(bytes);
    again::<SetWarm>(bytes);
    again::<BackendView>(bytes);
    again::<Inventory>(bytes);
    again::<Refusal>(bytes);
}

fn controllers_and_others(bytes: &[u8]) {
    again::<Register>(bytes);
    again::<Registered>(bytes);
    again::<Heartbeat>(bytes);
    again::<HeartbeatReply>(bytes);
    again::<Events>(bytes);
    again::<Stale>(bytes);
    again::<ProxyHeartbeat>(bytes);
    again::<ProxyRegistered>(bytes);
    again::<DroneAddress>(bytes);
    again::<WarmLoad>(bytes);
    again::<ErrorBody>(bytes);
}

/// As it was read, and as it is read from what was written.
fn again<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) -> Option<[T; 2]> {
    let name = type_name::<T>();
    let read: T = serde_json::from_slice(bytes).ok()?;
    let text = serde_json::to_string(&read).unwrap_or_else(|error| panic!("{name}: {error}"));
    let written: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name} {text}: {error}"));
    assert_eq!(written, read, "{name} {text}");
    assert_eq!(serde_json::to_string(&written).ok(), Some(text), "{name}");
    Some([read, written])
}
