//! Drone ↔ init, over a Unix stream socket that belongs to one slot: one JSON object a line, each at most
//! [`LINE_BYTES_MAX`].
//!
//! The drone listens on `drone.sock` in the slot's directory, which is mounted read-only at [`RUN_DIR`]; init
//! connects, says [`Hello`], and stays on the line. A lost line is redialled within 250 ms, for as long as init
//! lives. Only the init of that container can say its nonce, so its answer to "whose are you?" is proof.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{BackendId, BootId, FencingToken};
use crate::spec::InitMode;

/// Where init's executable is mounted.
pub const INIT_PATH: &str = "/.jetway/bin/jetway-init";
/// Directory of init's executable in the container.
pub const INIT_DIR: &str = "/.jetway/bin";
/// Where the slot's directory is mounted.
pub const RUN_DIR: &str = "/.jetway/run";
/// The drone's socket, as init sees it.
pub const SOCKET_PATH: &str = "/.jetway/run/drone.sock";
/// Where the directory with the drone's deadline is mounted, read-only: the file in it is [`crate::lease::Deadline::FILE_NAME`].
pub const LEASE_DIR: &str = "/.jetway/lease";
/// Bytes of a Unix socket's path, at most: `sockaddr_un` has 108 and a closing zero (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Bytes of one line, at most: an environment of 1 MiB is refused long before.
pub const LINE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Exit status of init when the application could not be executed (as a shell's).
pub const EXIT_CANNOT_EXECUTE: i32 = 126;
/// Exit status of init when the application was not found (as a shell's).
pub const EXIT_NOT_FOUND: i32 = 127;
/// Exit status of init when the lease was over before the application was executed, and when its
/// end began the application's (`EX_TEMPFAIL` of sysexits.h): an agent that was away reads why.
pub const EXIT_LEASE_OVER: i32 = 75;

/// Init's first line on every connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    /// Random, made at init's start, the same on every connection of this init.
    pub nonce: String,
    pub boot_id: Option<BootId>,
    /// The session it took, if it took one: outranks journal and labels.
    pub session: Option<SessionState>,
    /// The application that it runs ahead of its session, if it does and no session came yet.
    #[serde(default)]
    pub ahead: Option<AheadState>,
    /// It says [`FromInit::Taken`] before it begins a session. An init of an earlier version does
    /// not.
    #[serde(default)]
    pub writes_ahead: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AheadState {
    pub pid: i32,
    /// Where it was seen listening, if it was ready.
    pub ready: Option<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    pub backend: BackendId,
    pub fencing_token: FencingToken,
    /// The application's pid in the container; absent once it has exited.
    pub pid: Option<i32>,
    /// Where it was seen listening, if it was ready.
    pub ready: Option<SocketAddr>,
    pub stopping: bool,
    /// It stops because the drone's deadline is near, not because it was told to.
    #[serde(default)]
    pub lease_over: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromInit {
    Hello(Hello),
    /// The session is this init's. Written before anything is executed or bound; where it cannot be
    /// written, nothing is, and the session counts as never received.
    Taken {
        backend: BackendId,
    },
    /// The application was executed. Repeated as it was for a [`Session`] of the same id.
    Started {
        backend: BackendId,
        pid: i32,
    },
    /// The one session is taken by another backend.
    Refused {
        backend: BackendId,
        taken_by: BackendId,
    },
    /// The application could not be executed. Init exits with 126 or 127 after this.
    StartFailed {
        backend: BackendId,
        message: String,
    },
    /// The drone's deadline was too near to execute anything. Init exits with [`EXIT_LEASE_OVER`] after this.
    LeaseOver {
        backend: BackendId,
    },
    /// It listens on the session's port, at a wildcard or a container address.
    Ready {
        backend: BackendId,
        address: SocketAddr,
    },
    /// It listens, but elsewhere. Sent once for each new set of places; init goes on looking.
    ListeningElsewhere {
        backend: BackendId,
        addresses: Vec<SocketAddr>,
    },
    /// The application ended; init exits next, with the same status (128 + signal), or with
    /// [`EXIT_LEASE_OVER`] where the lease had begun its stop.
    Exited {
        backend: BackendId,
        code: Option<i32>,
        signal: Option<i32>,
    },
    /// The application was executed ahead of its session. Repeated as it was for another [`Ahead`].
    AheadStarted {
        pid: i32,
    },
    /// It listens on its port. From the session on, the words above are used.
    AheadReady {
        address: SocketAddr,
    },
    /// It could not be executed, or has ended, before its session came: the container ends next.
    AheadFailed {
        message: String,
    },
    Pong,
}

impl FromInit {
    /// The backend whose session the message is about.
    pub fn backend(&self) -> Option<&BackendId> {
        match self {
            FromInit::Taken { backend }
            | FromInit::Started { backend, .. }
            | FromInit::Refused { backend, .. }
            | FromInit::StartFailed { backend, .. }
            | FromInit::LeaseOver { backend }
            | FromInit::Ready { backend, .. }
            | FromInit::ListeningElsewhere { backend, .. }
            | FromInit::Exited { backend, .. } => Some(backend),
            FromInit::Hello(_)
            | FromInit::AheadStarted { .. }
            | FromInit::AheadReady { .. }
            | FromInit::AheadFailed { .. }
            | FromInit::Pong => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToInit {
    /// After [`ToInit::Ahead`] nothing is executed any more: the application that runs is this backend's from now on, and what
    /// the session says of environment and arguments is the drone's to tell it.
    Session(Box<Session>),
    /// Execute the application now; its session comes later, or never. It holds no key and no lease until then.
    Ahead(Box<Ahead>),
    /// Send the signal to the application; kill everything `grace_ms` later. Repeating it changes nothing but may
    /// shorten the grace.
    Stop {
        signal: i32,
        grace_ms: u64,
    },
    /// The drone's deadline has come nearer: look at the file now.
    LookAtLease,
    Ping,
}

/// What a hot slot's application starts with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// Over the container's own environment, name by name.
    pub env: BTreeMap<String, String>,
    pub port: u16,
    /// As in [`Session`].
    #[serde(default)]
    pub addresses: Vec<std::net::IpAddr>,
}

/// Shows the names in the environment, never the values.
impl std::fmt::Debug for Ahead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ahead")
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// All that late binding needs: the environment, and what to run where the spec overrides the image.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub backend: BackendId,
    pub fencing_token: FencingToken,
    /// Over the container's own environment (the image's), name by name.
    pub env: BTreeMap<String, String>,
    /// Instead of the arguments that init was started with (the image's entrypoint and command).
    #[serde(default)]
    pub argv: Option<Vec<String>>,
    /// Instead of the container's working directory.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// The port whose listening socket means "ready"; `None`: init does not look.
    pub port: Option<u16>,
    /// The container's own addresses: a listener there or on a wildcard counts.
    #[serde(default)]
    pub addresses: Vec<std::net::IpAddr>,
    #[serde(default)]
    pub mode: InitMode,
    /// `None`: nothing is stopped for want of a lease.
    #[serde(default)]
    pub lease: Option<SessionLease>,
}

/// What init needs to have the last word ([`crate::lease::LastWord`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLease {
    /// The agent's. An init that sees another one (a runtime with a kernel of its own) cannot compare clocks, and
    /// executes nothing.
    pub boot_id: BootId,
    /// From the stop signal to the deadline.
    pub grace_ms: u64,
    pub stop_signal: i32,
}

/// Shows the names in the environment, never the values.
impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("backend", &self.backend)
            .field("fencing_token", &self.fencing_token)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("argv", &self.argv)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
