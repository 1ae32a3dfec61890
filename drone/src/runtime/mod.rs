//! What the drone needs of a container engine, and of the init in each container. Docker is the one real
//! implementation; tests use a fake to reach states that a real engine reaches rarely.
//!
//! Calls that make, start or remove containers may wait for their turn before the engine is asked: a session's start
//! ([`CreateRequest::backend`]) goes before what is made ahead.
//!
//! Every call may be repeated, and may be made about a slot that is gone. An error is never an end: only
//! [`ContainerStatus::Exited`] and [`ContainerStatus::Absent`] are.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use jetway_protocol::ids::{BackendId, SlotId};
use jetway_protocol::init::{FromInit, ToInit};
use jetway_protocol::key::Key;
use jetway_protocol::spec::Executable;
use tokio::sync::{broadcast, mpsc, watch};

pub mod docker;
pub mod init_line;

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod fake_script;

#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes sure that the image is on the engine, by the executable's pull policy. One pull per image at a time,
    /// shared by all who wait for it.
    async fn ensure_image(&self, executable: &Executable) -> Result<Image, ImageError>;

    /// Makes the container of a slot: init as its entrypoint, parked, the hardening of every container.
    async fn create(&self, request: &CreateRequest) -> Result<(), RuntimeError>;

    /// Makes a network namespace with this address that waits for a container: a tiny container of its own, running.
    /// [`CreateRequest::sandbox`] names it then.
    async fn make_sandbox(&self, sandbox: SlotId, address: Ipv4Addr) -> Result<(), RuntimeError>;

    /// Removes it by force, with what it holds of the network. Absent is success. Not before the container that joined it is gone.
    async fn remove_sandbox(&self, sandbox: SlotId) -> Result<(), RuntimeError>;

    /// Every sandbox of this installation's drone, by labels, in whatever state; `backend` is `None`.
    async fn list_sandboxes(&self) -> Result<Vec<Found>, RuntimeError>;

    /// Starts it and tells the address where it can be reached.
    async fn start(&self, slot: SlotId) -> Result<IpAddr, RuntimeError>;

    async fn inspect(&self, slot: SlotId) -> Result<ContainerStatus, RuntimeError>;

    /// Whether the container was ended because the namespace that it had joined died under it.
    fn was_cut_off(&self, _slot: SlotId) -> bool {
        false
    }

    /// The engine's kill call: for SIGKILL, and for stop signals where init is not on the line.
    async fn kill(&self, slot: SlotId, signal: i32) -> Result<(), RuntimeError>;

    /// Removes the container by force, and the slot's directory. Absent is success.
    async fn remove(&self, slot: SlotId) -> Result<(), RuntimeError>;

    /// Every container of this installation's drone, by labels, in whatever state.
    async fn list(&self) -> Result<Vec<Found>, RuntimeError>;

    /// Whether containers are called after the keys that they serve.
    fn names_by_key(&self) -> bool {
        false
    }

    /// Gives the container a name that tells people of its key.
    async fn name_after(&self, _slot: SlotId, _key: &Key) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// The last bytes of output, both streams in order.
    async fn output_tail(&self, slot: SlotId, bytes_max: usize) -> Result<String, RuntimeError>;

    /// Output as plain bytes.
    async fn logs(
        &self,
        slot: SlotId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<Bytes, RuntimeError>>, RuntimeError>;

    /// Whether the engine answers.
    async fn ping(&self) -> Result<(), RuntimeError>;

    /// Rises when a connection to the engine breaks that is open all the time: it may be down.
    fn losses(&self) -> watch::Receiver<u64>;

    /// "Look now": slots whose container may have died or been killed for memory, as the engine's event stream says.
    /// A lagging receiver looks at everything.
    fn hints(&self) -> broadcast::Receiver<SlotId>;

    /// The addresses that this drone gives to its sessions' containers. The caller chooses and never gives one twice.
    fn subnet(&self) -> Subnet;

    /// Names of the images that are present, for placement. From a cache that pulls and engine events keep fresh.
    fn images(&self) -> Vec<String>;

    /// What this name means on the engine, where that is known without asking.
    fn image_id(&self, _name: &str) -> Option<String> {
        None
    }

    /// Rises when some name may mean another image by now.
    fn image_changes(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }

    /// Where the disk is nearly full: removes images that this drone itself has pulled and that nothing needs, least recently
    /// used first, and tells their names. `keep`: what slots are kept for and what runs, as executables name it.
    async fn collect_images(&self, keep: &[String]) -> Result<Vec<String>, RuntimeError> {
        let _nothing_to_collect = keep;
        Ok(Vec::new())
    }

    /// Bytes that came so far and bytes in all, while the executable's image is being pulled.
    fn pull_progress(&self, _executable: &Executable) -> Option<(u64, u64)> {
        None
    }

    /// What an operator should know, one sentence each: none where all is well.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Opens the slot's socket (again, after an agent's restart) and returns the line to its init.
    /// Opened before [`Runtime::create`]; closed when the returned line is dropped.
    async fn open_line(&self, slot: SlotId) -> Result<InitLine, RuntimeError>;

    /// As [`Runtime::open_line`], for an init whose nonce the journal knows: nobody else gets on the line.
    async fn open_line_of(&self, slot: SlotId, nonce: Option<String>) -> Result<InitLine, RuntimeError> {
        let _unpinned = nonce;
        self.open_line(slot).await
    }
}

/// What of a container's output is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuery {
    /// Lines from the end, all if `None`.
    pub tail: Option<u32>,
    pub follow: bool,
    /// Each line begins with its time (RFC 3339) and a space.
    pub timestamps: bool,
}

/// The line to one init. Events come in order; the sender queues at most 16 messages while init is not on the line,
/// and they are sent when it comes back.
pub struct InitLine {
    pub events: mpsc::Receiver<LineEvent>,
    pub commands: mpsc::Sender<ToInit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineEvent {
    /// Init is on the line; its `Hello` (with nonce and session) is here. After it, only that init's messages.
    Connected(jetway_protocol::init::Hello),
    Message(FromInit),
    /// Nothing can be said to init: it is gone, or will be back within 250 ms.
    Disconnected {
        /// All that init said on the connection has come before this. Otherwise messages may still
        /// follow, and then this event once more; or they are lost.
        heard_all: bool,
    },
}

#[derive(Debug, Clone)]
pub struct CreateRequest {
    pub slot: SlotId,
    /// For the label on a container that is created for one backend.
    pub backend: Option<BackendId>,
    pub executable: Executable,
    pub image: Image,
    /// On the drone's own network; ignored where the executable names another.
    pub address: Ipv4Addr,
    /// Joins this namespace, made by [`Runtime::make_sandbox`] with the same address. `None`: the engine makes one.
    pub sandbox: Option<SlotId>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Image {
    /// The engine's content id.
    pub id: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub user: String,
    /// The number of the image's stop signal; SIGTERM where it names none.
    pub stop_signal: i32,
    /// Bytes pulled just now (0: the engine does not say), and how long that took; `None` when it
    /// was present.
    pub pulled: Option<(u64, Duration)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerStatus {
    Absent,
    /// Made, never started.
    Created,
    Running {
        paused: bool,
        address: Option<IpAddr>,
    },
    Exited {
        code: i32,
        oom_killed: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub slot: SlotId,
    /// From the label; init's own answer outranks it.
    pub backend: Option<BackendId>,
    /// The namespace that it joined, from the label: not to be removed before it.
    pub sandbox: Option<SlotId>,
    pub status: ContainerStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    pub network: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    #[error("image {image} was not found: {reason}")]
    NotFound { image: String, reason: String },
    #[error("image {image} is not present and the pull policy is Never")]
    AbsentAndNever { image: String },
    #[error("pull of {image} failed: {reason}")]
    PullFailed { image: String, reason: String },
    /// Nobody answered, or the connection broke: repeating it may help.
    #[error("image {image}: the engine cannot be reached: {reason}")]
    Unreachable { image: String, reason: String },
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// The engine understood and said no: repeating changes nothing.
    #[error("the engine refused: {0}")]
    Refused(String),
    /// Asked for what this drone does not offer.
    #[error("{0}")]
    NotOffered(String),
    /// No answer, or a failing engine: what happened is unknown.
    #[error("the engine failed: {0}")]
    Engine(String),
    /// Nobody listens, or the connection broke before an answer: the engine is down or restarts. Whether it did what it was
    /// asked is not known.
    #[error("the engine cannot be reached: {0}")]
    Unreachable(String),
    #[error("no such container")]
    Absent,
    /// The namespace that the container was to join is gone or dead. Nothing ran: it can be made anew without one.
    #[error("its sandbox is gone")]
    SandboxGone,
}
