//! The end of what clients have open, in its order: nothing new, then WebSockets are told to come back, then whatever is left is cut.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attach::{Closed, Gate};
use crate::leaving::Goodbye;
use crate::listener::FIRST_REQUEST_MAX;
use crate::seldom::Seldom;

#[derive(Debug, Default)]
pub struct Ending {
    closing: Step,
    leave: Step,
    cut: Step,
    spread: Duration,
    /// What is open after an upgrade.
    pub tunnels: TaskTracker,
}

/// Something that is so from some moment on. The flag is set before the token is.
#[derive(Debug, Default)]
pub struct Step {
    is_taken: AtomicBool,
    token: CancellationToken,
}

impl Step {
    pub fn take(&self) {
        self.is_taken.store(true, Ordering::Release);
        self.token.cancel();
    }

    fn is_taken(&self) -> bool {
        self.is_taken.load(Ordering::Acquire)
    }
}

impl Ending {
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
        Seldom::new(self.closing.token.cancelled(), || self.closing.is_taken())
    }

    /// Returns when who has connected without saying what for is not waited for any more.
    pub async fn last_chance(&self) {
        self.closing().await;
        sleep(FIRST_REQUEST_MAX).await;
    }

    /// WebSockets are told to come back.
    pub fn leave(&self) {
        self.leave.take();
    }

    /// Returns when one of them is to be told, and what: this process ends, its backend is about to, or has. All clients of a process come
    /// back: at once they would be a stampede.
    pub fn turn_to_leave(&self, gate: &Gate) -> impl Future<Output = Goodbye> {
        let turn = async {
            tokio::select! {
                biased;
                why = gate.closed() => match why {
                    Closed::Ended(_) => Goodbye::Ended,
                    Closed::Revoked => Goodbye::Revoked,
                },
                () = gate.leaving().token.cancelled() => Goodbye::ComeBack,
                () = self.leave.token.cancelled() => {
                    if !self.spread.is_zero() {
                        sleep(self.spread.mul_f64(rand::random())).await;
                    }
                    Goodbye::ComeBack
                }
            }
        };
        Seldom::new(turn, || self.leave.is_taken() || gate.leaving().is_taken() || gate.is_closing())
    }

    /// Everything that is still open.
    pub fn cut(&self) {
        self.cut.take();
    }

    pub fn is_cut(&self) -> impl Future<Output = ()> {
        Seldom::new(self.cut.token.cancelled(), || self.cut.is_taken())
    }

    /// Returns when what is open under this grant must be closed at once.
    pub fn over(&self, gate: &Gate) -> impl Future<Output = ()> {
        let over = async {
            tokio::select! {
                _ = gate.closed() => {}
                () = self.is_cut() => {}
            }
        };
        Seldom::new(over, || gate.is_closing() || self.cut.is_taken())
    }
}
