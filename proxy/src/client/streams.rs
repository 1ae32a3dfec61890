//! The many requests of one HTTP/2 connection: how many are open, and whether its client only plays
//! with them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Requests that a client may take back before they were answered (CVE-2023-44487), at once and
/// then so often: a page that is left takes its pictures back, all of them.
const TAKEN_BACK_MAX: u32 = 256;
const TAKEN_BACK_EACH: Duration = Duration::from_millis(31);

#[derive(Debug, Clone)]
pub struct Streams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Requests and their responses, up to the last byte.
    requests: TaskTracker,
    /// Tunnels.
    tunnels: TaskTracker,
    taken_back: Mutex<Allowance>,
    /// Ends the connection.
    cut: CancellationToken,
}

/// A request from its head to the head of its answer. Dropped before that, it was taken back.
#[derive(Debug)]
pub struct OpenRequest {
    streams: Streams,
    answered: bool,
    _open: TaskTrackerToken,
}

/// Time that each counted event uses up, and that comes back by itself.
#[derive(Debug)]
struct Allowance {
    used_up_until: Instant,
}

impl Streams {
    pub fn new(cut: CancellationToken) -> Self {
        let taken_back = Mutex::new(Allowance { used_up_until: Instant::now() });
        let (requests, tunnels) = (TaskTracker::new(), TaskTracker::new());
        Self(Arc::new(Shared { requests, tunnels, taken_back, cut }))
    }

    pub fn ask(&self) -> OpenRequest {
        OpenRequest { streams: self.clone(), answered: false, _open: self.0.requests.token() }
    }

    /// For a response that goes on.
    pub fn response(&self) -> TaskTrackerToken {
        self.0.requests.token()
    }

    pub fn tunnel(&self) -> TaskTrackerToken {
        self.0.tunnels.token()
    }

    pub fn are_idle(&self) -> bool {
        self.0.requests.is_empty() && self.0.tunnels.is_empty()
    }

    /// Returns when no request is open any more.
    pub async fn last_request(&self) {
        self.0.requests.close();
        self.0.requests.wait().await;
    }

    fn taken_back(&self) {
        let mut allowance = self.0.taken_back.lock();
        if !allowance.use_up(Instant::now()) {
            self.0.cut.cancel();
        }
    }
}

impl OpenRequest {
    pub fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if !self.answered {
            self.streams.taken_back();
        }
    }
}

impl Allowance {
    /// False: there was none left.
    fn use_up(&mut self, now: Instant) -> bool {
        self.used_up_until = self.used_up_until.max(now) + TAKEN_BACK_EACH;
        self.used_up_until.duration_since(now) <= TAKEN_BACK_EACH * TAKEN_BACK_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn taking_requests_back_is_allowed_for_a_while() {
        let cut = CancellationToken::new();
        let streams = Streams::new(cut.clone());
        for _ in 0..10 * TAKEN_BACK_MAX {
            streams.ask().answered();
        }
        for _ in 0..256 {
            drop(streams.ask());
        }
        assert!(!cut.is_cancelled(), "a page may be left");
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..32 {
            drop(streams.ask());
        }
        assert!(!cut.is_cancelled(), "and the next one");
        drop(streams.ask());
        assert!(cut.is_cancelled());
    }

    #[tokio::test]
    async fn a_connection_is_idle_without_requests_and_tunnels() {
        let streams = Streams::new(CancellationToken::new());
        assert!(streams.are_idle());
        let (asked, tunnel) = (streams.ask(), streams.tunnel());
        let response = streams.response();
        asked.answered();
        assert!(!streams.are_idle());
        drop(response);
        streams.last_request().await;
        assert!(!streams.are_idle());
        drop(tunnel);
        assert!(streams.are_idle());
    }
}
