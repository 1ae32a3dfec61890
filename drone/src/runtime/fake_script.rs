//! What the fake engine of the tests, its inits and their applications are told to do, and what it knows of a container. Doing it is `fake`'s business.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use jetway_protocol::ids::{BackendId, BootId, SlotId};
use jetway_protocol::init::{Ahead, Session};

use super::{ContainerStatus, ImageError, RuntimeError};

/// How the fake engine and its inits behave from now on.
#[derive(Debug, Clone)]
pub struct Script {
    pub application: Application,
    pub image_error: Option<ImageError>,
    pub pull_hangs: bool,
    pub create_hangs: bool,
    pub create_error: Option<RuntimeError>,
    pub kill_hangs: bool,
    pub inspect_fails: bool,
    pub init_is_silent: bool,
    /// The agent dies before init has read its session.
    pub sessions_get_lost: bool,
    /// The agent dies before init's answer to the session has come.
    pub claim_replies_get_lost: bool,
    /// Of the kernel that every init runs on.
    pub boot_id: Option<BootId>,
    /// Every init has begun a stop of its own, because the drone's deadline was near.
    pub lease_over: bool,
    /// The engine says 500 to each of these calls once, and has done what it was asked to.
    pub answers_500: Vec<&'static str>,
    /// Each of these calls is cut off once, and was done before.
    pub cuts_off: Vec<&'static str>,
    /// As Docker with live-restore does where it was killed over a start: it knows of none, and ends nothing.
    pub forgets_starts: bool,
    /// Nobody listens on the engine's socket.
    pub engine_is_down: bool,
    pub remove_fails: bool,
    /// The output ends with an error after its first line, as where the container is removed
    /// meanwhile.
    pub output_breaks: bool,
    pub open_line_fails: bool,
    /// Of every image.
    pub image_id: String,
    /// Whether the engine's answer about images is remembered.
    pub image_is_known: bool,
    pub sandbox_error: Option<RuntimeError>,
    /// The next inits that are given a session are killed, each at its step.
    pub deaths: Vec<Death>,
    /// Of every init: it says that a session is taken before it executes anything.
    pub writes_ahead: bool,
    /// The agent loses what an init has said right before its end.
    pub last_words_get_lost: bool,
    /// So many looks at a container are answered late, with how it was when it was asked about.
    pub late_looks: u32,
    /// Its addresses are this host's own, where the test listens.
    pub is_on_loopback: bool,
    /// For a start, and for making a namespace.
    pub engine_takes: Duration,
    /// The address that every container says it has, where the test listens.
    pub address: Option<IpAddr>,
    /// The lines that every application prints.
    pub printed: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Application {
    BecomesReady,
    NeverListens,
    ListensElsewhere,
    ExitsAtOnce(i32),
    IgnoresStop,
    /// Init becomes it, and nobody is on the line any more.
    TakesInitsPlace,
}

/// Where an init is on its way from a session to the message that its application runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It has read the session.
    Untaken,
    /// It has said that the session is taken, where it says so.
    Taken,
    /// It has executed the application.
    Executed,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            application: Application::BecomesReady,
            image_error: None,
            pull_hangs: false,
            create_hangs: false,
            create_error: None,
            kill_hangs: false,
            inspect_fails: false,
            init_is_silent: false,
            sessions_get_lost: false,
            claim_replies_get_lost: false,
            boot_id: None,
            lease_over: false,
            answers_500: Vec::new(),
            cuts_off: Vec::new(),
            forgets_starts: false,
            engine_is_down: false,
            remove_fails: false,
            output_breaks: false,
            open_line_fails: false,
            image_id: "sha256:1".to_owned(),
            image_is_known: false,
            sandbox_error: None,
            deaths: Vec::new(),
            writes_ahead: true,
            last_words_get_lost: false,
            late_looks: 0,
            is_on_loopback: false,
            engine_takes: Duration::ZERO,
            address: None,
            printed: vec!["hello".to_owned()],
        }
    }
}

#[derive(Clone)]
pub struct Container {
    pub slot: SlotId,
    pub status: ContainerStatus,
    pub address: Ipv4Addr,
    pub nonce: String,
    pub session: Option<Session>,
    /// Whose sessions were ever sent to it.
    pub claims: Vec<BackendId>,
    pub ahead: Option<Ahead>,
    pub stops: Vec<i32>,
    pub backend: Option<BackendId>,
    pub sandbox: Option<SlotId>,
    pub image: String,
}

#[derive(Clone)]
pub struct Sandbox {
    pub id: SlotId,
    pub address: Ipv4Addr,
    pub status: ContainerStatus,
}

impl Container {
    pub fn labelled(&self, backend: &str) -> Self {
        Self { backend: Some(backend.parse().unwrap()), ..self.clone() }
    }
}
