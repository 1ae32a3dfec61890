//! The handle that the rest of the agent holds of one backend: what it may see at any time, and the
//! requests that it sends to the backend's task.

use std::io;
use std::sync::Arc;

use jetway_protocol::drone_api::BackendView;
use jetway_protocol::grant::Grant;
use jetway_protocol::hint::Hint;
use jetway_protocol::ids::{BackendId, FencingToken, GrantId};
use jetway_protocol::key::Key;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use jetway_protocol::timeline::Stage;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::core::{Asking, ProxyWord, Snapshot};
use crate::books::streams::Stream;
use crate::lease::Tenure;

/// Requests queued for one backend, at most; senders wait beyond that.
pub const COMMANDS_MAX: usize = 64;

/// The backend has ended: its tombstone says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the backend has ended")]
pub struct HasEnded;

/// Why a grant was not added.
#[derive(Debug, thiserror::Error)]
pub enum NotAdded {
    #[error("the grant cannot be written to the journal")]
    Journal(#[from] io::Error),
}

/// A handle to a backend.
#[derive(Debug)]
pub struct Backend {
    pub id: BackendId,
    pub fencing_token: FencingToken,
    pub key: Option<Key>,
    /// As its executable names it.
    pub image: String,
    /// Where its spec says that it listens: nothing else of it is ever dialled for a proxy.
    pub ports: Vec<u16>,
    /// `None`: nothing stops it for want of a lease.
    pub tenure: Option<Tenure>,
    pub(super) commands: mpsc::Sender<Command>,
    /// A token and no command, so that neither a full queue nor a stuck engine call delays a kill.
    pub(super) kill: CancellationToken,
    pub(super) outward: watch::Receiver<Snapshot>,
}

#[derive(Debug)]
pub enum Command {
    AddGrant {
        grant: Grant,
        reply: oneshot::Sender<Result<Status, NotAdded>>,
    },
    Revoke {
        user: String,
        reply: oneshot::Sender<u32>,
    },
    Stop {
        kind: TerminationKind,
        reason: EndReason,
        reply: oneshot::Sender<BackendView>,
    },
    View {
        grant: Option<GrantId>,
        reply: oneshot::Sender<BackendView>,
    },
    Proxy(ProxyWord),
    FirstByte(Stage),
    /// A hint: the container may have changed.
    Look,
}

impl Backend {
    pub fn snapshot(&self) -> Snapshot {
        self.outward.borrow().clone()
    }

    /// What holds its start up.
    pub fn hint(&self) -> Option<Hint> {
        self.outward.borrow().hint.clone()
    }

    pub fn status(&self) -> Status {
        self.outward.borrow().state.status()
    }

    /// Follows the state; the sender goes with the backend's end.
    pub fn follow(&self) -> watch::Receiver<Snapshot> {
        self.outward.clone()
    }

    /// The status after it: from `terminating` on, the grant was not added.
    pub async fn add_grant(&self, grant: Grant) -> Result<Result<Status, NotAdded>, HasEnded> {
        self.ask_for(|reply| Command::AddGrant { grant, reply }).await
    }

    /// How many grants are gone.
    pub async fn revoke(&self, user: String) -> Result<u32, HasEnded> {
        self.ask_for(|reply| Command::Revoke { user, reply }).await
    }

    /// How it stands once its stop has begun: it may have ended before anybody could ask.
    pub async fn stop(&self, kind: TerminationKind, reason: EndReason) -> Result<BackendView, HasEnded> {
        if kind == TerminationKind::Hard {
            self.kill.cancel();
        }
        self.ask_for(|reply| Command::Stop { kind, reason, reply }).await
    }

    /// With its newest grants, or one of them alone.
    pub async fn view(&self, grant: Option<GrantId>) -> Result<BackendView, HasEnded> {
        self.ask_for(|reply| Command::View { grant, reply }).await
    }

    /// The answer is pushed to the stream, now or when there is one.
    pub async fn ask(&self, asking: Asking) -> Result<(), HasEnded> {
        self.tell(Command::Proxy(ProxyWord::Ask(asking))).await
    }

    /// What the ask waits for is pushed to its stream from now on.
    pub async fn follow_ask(&self, stream: &Arc<Stream>, ask: u64) {
        let stream = stream.clone();
        let _an_ended_one_waits_for_nobody =
            self.tell(Command::Proxy(ProxyWord::Follow { stream, ask })).await;
    }

    pub async fn forget(&self, stream: &Arc<Stream>, ask: u64) {
        let stream = stream.clone();
        let _an_ended_one_waits_for_nobody =
            self.tell(Command::Proxy(ProxyWord::Forget { stream, ask })).await;
    }

    /// Of no effect once the proxy has another stream: what that one says is newer.
    pub async fn uses(&self, stream: &Arc<Stream>, uses: u32, connections: u32) -> Result<(), HasEnded> {
        let stream = stream.clone();
        self.tell(Command::Proxy(ProxyWord::Uses { stream, uses, connections })).await
    }

    /// What the proxy has open counts as closed at `closed_at`, unless it says otherwise before
    /// that. Of no effect once it has another stream.
    pub async fn stream_lost(&self, stream: &Arc<Stream>, closed_at: Instant) {
        let stream = stream.clone();
        let _an_ended_one_has_no_uses =
            self.tell(Command::Proxy(ProxyWord::StreamLost { stream, closed_at })).await;
    }

    pub async fn first_byte(&self, stage: Stage) {
        let _an_ended_one_has_its_timeline = self.tell(Command::FirstByte(stage)).await;
    }

    /// Never waits: with a full queue it looks soon enough.
    pub fn look(&self) {
        let _full_or_ended = self.commands.try_send(Command::Look);
    }

    async fn ask_for<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, HasEnded> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.map_err(|_| HasEnded)
    }

    async fn tell(&self, command: Command) -> Result<(), HasEnded> {
        self.commands.send(command).await.map_err(|_| HasEnded)
    }
}
