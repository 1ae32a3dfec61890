//! The attach streams that are open now, as the rest of the agent sees them: somewhere to push a message to a proxy.
//!
//! A push never waits. A proxy that does not read fast enough loses its stream and comes back with a fresh one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use jetway_protocol::attach::ToProxy;
use jetway_protocol::ids::ProxyId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Messages queued for one proxy, at most: a reconnecting proxy with thousands of sessions gets as many ends at once.
pub const QUEUE_MESSAGES_MAX: usize = 4096;
/// Proxies whose newest stream is remembered before those whose streams are long gone are forgotten.
const PROXIES_REMEMBERED_MAX: usize = 2048;
/// A stream so many streams ago has nothing under way any more.
const STREAMS_REMEMBERED: u64 = 1024;

#[derive(Debug)]
pub struct Stream {
    pub proxy: ProxyId,
    /// Rises with each stream: of two of one proxy, the higher is the newer.
    number: u64,
    queue: mpsc::Sender<ToProxy>,
    closed: CancellationToken,
}

impl Stream {
    pub fn number(&self) -> u64 {
        self.number
    }

    /// False: the stream is closed, or is now because it was too slow.
    pub fn push(&self, message: ToProxy) -> bool {
        if self.closed.is_cancelled() {
            return false;
        }
        let sent = self.queue.try_send(message).is_ok();
        if !sent {
            tracing::warn!(proxy = %self.proxy, "an attach stream does not keep up and is closed");
            self.closed.cancel();
        }
        sent
    }

    pub fn close(&self) {
        self.closed.cancel();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

#[derive(Debug, Default)]
pub struct Streams {
    by_proxy: DashMap<ProxyId, Arc<Stream>>,
    /// Each proxy's newest stream, open or not: what an older one still has under way is old news.
    newest: DashMap<ProxyId, u64>,
    next: AtomicU64,
}

impl Streams {
    /// A proxy has one stream: an older one is closed. `first` is pushed before anybody else can push anything.
    pub fn open(&self, proxy: ProxyId, first: ToProxy) -> (Arc<Stream>, mpsc::Receiver<ToProxy>) {
        let (queue, messages) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(Stream { proxy, number, queue, closed: CancellationToken::new() });
        stream.push(first);
        self.newest.insert(proxy, number);
        if self.newest.len() > PROXIES_REMEMBERED_MAX {
            self.newest.retain(|_, newest| number - *newest < STREAMS_REMEMBERED);
        }
        if let Some(older) = self.by_proxy.insert(proxy, stream.clone()) {
            older.close();
        }
        (stream, messages)
    }

    /// True: the proxy has no stream any more. False: a newer one has taken this one's place.
    pub fn remove(&self, stream: &Stream) -> bool {
        stream.close();
        self.by_proxy.remove_if(&stream.proxy, |_, current| current.number == stream.number).is_some()
    }

    #[cfg(test)]
    pub fn open_now(&self) -> usize {
        self.by_proxy.len()
    }

    /// Whether the proxy has opened another stream since.
    pub fn is_outdated(&self, stream: &Stream) -> bool {
        self.newest.get(&stream.proxy).is_some_and(|newest| *newest > stream.number)
    }

    pub fn push(&self, proxy: ProxyId, message: ToProxy) -> bool {
        let stream = self.by_proxy.get(&proxy).map(|stream| stream.clone());
        stream.is_some_and(|stream| stream.push(message))
    }

    pub fn proxies(&self) -> Vec<ProxyId> {
        self.by_proxy.iter().map(|entry| *entry.key()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_stream_replaces_the_older_and_outlives_its_removal() {
        let streams = Streams::default();
        let proxy = ProxyId::random();
        let (older, _) = streams.open(proxy, ToProxy::Ping);
        let (newer, mut messages) = streams.open(proxy, ToProxy::Ping);
        assert!(older.is_closed() && streams.is_outdated(&older) && !streams.is_outdated(&newer));
        assert_eq!(messages.recv().await, Some(ToProxy::Ping), "the first message");
        assert!(!streams.remove(&older), "the newer one stays");
        assert!(streams.push(proxy, ToProxy::Ping));
        assert_eq!(messages.recv().await, Some(ToProxy::Ping));
        assert!(streams.remove(&newer));
        assert!(!streams.push(proxy, ToProxy::Ping));
        assert!(streams.is_outdated(&older), "also when no stream is open");
    }

    #[tokio::test]
    async fn a_proxy_that_does_not_read_loses_its_stream() {
        let streams = Streams::default();
        let (stream, _messages) = streams.open(ProxyId::random(), ToProxy::Ping);
        for _ in 1..4096 {
            assert!(stream.push(ToProxy::Ping));
        }
        assert!(!stream.push(ToProxy::Ping));
        assert!(stream.is_closed());
    }
}
