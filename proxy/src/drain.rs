//! The drain of a process, in its order: no new connections, then WebSockets are told to come back,
//! then everything that is still open is cut.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::attach::{Closed, Gate};
use crate::io::signal::{Hinted, Signal};
use crate::tunnel::close_code::CloseCode;

/// A client that has connected just before the end has this long to send its first request.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(1);
/// After a session's end, for the frames that its WebSockets' clients have not taken yet.
const LAST_FRAMES_MAX: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub struct Drain {
    closing: Signal,
    leave: Signal,
    cut: Signal,
    spread: Duration,
    /// Everything that is open after an upgrade.
    pub tunnels: TaskTracker,
}

impl Drain {
    /// WebSockets leave each at a time of its own within `spread`.
    pub fn new(spread: Duration) -> Self {
        Self { spread, ..Self::default() }
    }

    /// No connection is accepted any more, and each ends after the requests that it is busy with.
    pub fn close(&self) {
        self.closing.take();
        self.tunnels.close();
    }

    pub fn is_closing(&self) -> bool {
        self.closing.is_taken()
    }

    pub fn closing(&self) -> impl Future<Output = ()> {
        Hinted::new(self.closing.taken(), || self.closing.is_taken())
    }

    /// Returns when a client that has connected and sent no request is not waited for any more.
    pub async fn last_chance(&self) {
        self.closing().await;
        sleep(FIRST_REQUEST_MAX).await;
    }

    /// WebSockets are told to come back.
    pub fn leave(&self) {
        self.leave.take();
    }

    /// Returns when one of them is to be told, with the close code: this process ends, its backend
    /// is about to, or has. All clients of a process come back: at once they would be a stampede.
    pub fn turn_to_leave(&self, gate: &Gate) -> impl Future<Output = CloseCode> {
        let turn = async {
            tokio::select! {
                biased;
                why = gate.closed() => why.into(),
                () = gate.leaving().taken() => CloseCode::ComeBack,
                () = self.leave.taken() => {
                    if !self.spread.is_zero() {
                        sleep(self.spread.mul_f64(rand::random())).await;
                    }
                    CloseCode::ComeBack
                }
            }
        };
        Hinted::new(turn, || self.leave.is_taken() || gate.leaving().is_taken() || gate.is_closing())
    }

    /// Everything that is still open.
    pub fn cut(&self) {
        self.cut.take();
    }

    pub fn is_cut(&self) -> impl Future<Output = ()> {
        Hinted::new(self.cut.taken(), || self.cut.is_taken())
    }

    /// Returns when everything under this grant must be closed at once. A WebSocket whose session
    /// has ended has a moment for the frames that are on their way, and for the last one.
    pub fn over(&self, gate: &Gate, is_websocket: bool) -> impl Future<Output = ()> {
        let over = async move {
            let why = tokio::select! {
                why = gate.closed() => why,
                () = self.is_cut() => return,
            };
            if is_websocket && matches!(why, Closed::Ended(_)) {
                // Its size is for the few that end, not for all that are open.
                Box::pin(timeout(LAST_FRAMES_MAX, self.is_cut())).await.unwrap_or(());
            }
        };
        Hinted::new(over, || gate.is_closing() || self.cut.is_taken())
    }
}
