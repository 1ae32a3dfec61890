//! The door: accepts client connections, bounds them, reads their heads in time, and closes them in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jetway_service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::arrival::{Arrival, Http, Reception};
use crate::connection::Connection;
use crate::serve::Server;
use crate::streams::Streams;
use crate::upstream::Dialer;
use crate::{http1, http2};

/// What an open file limit that is reached costs: a pause, not a spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For the last closes to be told to the drones, and for the streams to close before the tunnels do.
const LAST_WORD: Duration = Duration::from_millis(100);
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nproxy-status: jetway; error=connection_limit_reached\r\n\
    retry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What a client may take. The numbers are the ones that run; tests have their own.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Client connections at a time, tunnels among them.
    pub connections: usize,
    /// From the connection's start, or the last answer, to the end of the next request's head. A connection's first bytes have as
    /// long, of themselves.
    pub head: Duration,
    /// An HTTP/2 connection without requests lives this long, and twice as long at most.
    pub idle: Duration,
    /// Requests in flight have this long at the end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128 * 1024,
            head: Duration::from_secs(20),
            idle: Duration::from_secs(60),
            drain: Duration::from_secs(5),
        }
    }
}

pub struct Listener {
    pub listener: TcpListener,
    pub door: Arc<Door>,
    pub streams_stop: CancellationToken,
}

/// What each connection that comes in is given.
pub struct Door {
    pub reception: Reception,
    pub server: Arc<Server>,
    pub dialer: Arc<Dialer>,
    pub lifecycle: Lifecycle,
    pub tunnels_stop: CancellationToken,
    pub limits: Limits,
}

/// One connection that is served.
pub struct Serving {
    pub connection: Arc<Connection>,
    pub server: Arc<Server>,
    pub lifecycle: Lifecycle,
    pub limits: Limits,
    /// Until it has no request in flight, the stop waits for it.
    pub in_use: TaskTrackerToken,
}

impl Listener {
    /// Serves until the process stops; then in order: no new connections, requests to their end, streams, tunnels.
    pub async fn run(self) {
        let connections = TaskTracker::new();
        self.door.lifecycle.token().run_until_cancelled(self.accept_all(&connections)).await;
        let Listener { listener, door, streams_stop } = self;
        drop(listener);
        connections.close();
        if timeout(door.limits.drain, connections.wait()).await.is_err() {
            tracing::info!(connections = connections.len(), "closing connections with requests in flight");
        }
        // Streams first: what clients closed has been told; what we close now must not look like it. The drone then
        // gives the clients its grace to come back through the next proxy.
        sleep(LAST_WORD).await;
        streams_stop.cancel();
        sleep(LAST_WORD).await;
        door.tunnels_stop.cancel();
    }

    async fn accept_all(&self, connections: &TaskTracker) {
        let permits = Arc::new(Semaphore::new(self.door.limits.connections));
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(reason) => {
                    tracing::warn!(%reason, "no connection accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                let _best_effort = stream.try_write(FULL);
                continue;
            };
            jetway_service::socket::prepare(&stream);
            let (door, in_use) = (self.door.clone(), connections.token());
            self.door.lifecycle.spawn(async move { door.serve(stream, peer, permit, in_use).await });
        }
    }
}

impl Door {
    async fn serve(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
        in_use: TaskTrackerToken,
    ) {
        let arrival = tokio::select! {
            arrival = self.reception.receive(stream, address, self.limits.head) => arrival,
            () = self.lifecycle.stopping() => return,
        };
        let Arrival { socket, peer, http } = match arrival {
            Ok(arrival) => arrival,
            Err(reason) => {
                tracing::debug!(peer = %address, %reason, "a connection that nothing came of");
                return;
            }
        };
        let cut = CancellationToken::new();
        let streams = (http == Http::Two).then(|| Streams::new(cut.clone()));
        let (dialer, stop) = (self.dialer.clone(), self.tunnels_stop.clone());
        let connection = Arc::new(Connection::new(peer, dialer, stop, cut, permit, streams));
        let (server, lifecycle, limits) = (self.server.clone(), self.lifecycle.clone(), self.limits);
        let serving = Serving { connection, server, lifecycle, limits, in_use };
        match http {
            Http::One => http1::serve(socket, serving).await,
            // The rarer one, and the larger: every connection's task would have its size.
            Http::Two => Box::pin(http2::serve(socket, serving)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::ids::{BootId, ProxyId};
    use jetway_service::client::Client;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::watch;
    use tokio::time::Instant;

    use super::*;
    use crate::attach::{Drones, Identity};

    /// A listener that knows no installation, and where it listens.
    async fn listening(lifecycle: &Lifecycle, limits: Limits) -> SocketAddr {
        let (tunnels_stop, streams_stop) = (CancellationToken::new(), CancellationToken::new());
        let drones = Drones::new(Identity {
            proxy: ProxyId::random(),
            name: "p".into(),
            boot_id: BootId(uuid::Uuid::new_v4()),
            netns: "n".into(),
            bearer: "b".into(),
            controllers: Vec::new(),
            client: Client::new("b".into()),
            lifecycle: lifecycle.clone(),
            stop: streams_stop.clone(),
        });
        let known = watch::channel(None).1;
        let held = Semaphore::new(0);
        let server = Server { drones, known, hold: Duration::from_secs(1), root_redirect: None, held };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dialer = Arc::new(Dialer { lifecycle: lifecycle.clone(), bearer: "b".into() });
        let (server, lifecycle, reception) = (Arc::new(server), lifecycle.clone(), Reception::default());
        let door = Door { reception, server, dialer, lifecycle: lifecycle.clone(), tunnels_stop, limits };
        lifecycle.spawn(Listener { listener, door: Arc::new(door), streams_stop }.run());
        address
    }

    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        timeout(Duration::from_secs(5), stream.read_to_string(&mut text))
            .await
            .expect("it is closed")
            .unwrap();
        text
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_in_time_ends_the_connection() {
        let lifecycle = Lifecycle::new();
        let limits = Limits { head: Duration::from_millis(100), ..Limits::default() };
        let address = listening(&lifecycle, limits).await;
        for begun in ["", "GET / HT"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let start = Instant::now();
            client.write_all(begun.as_bytes()).await.unwrap();
            rest(&mut client).await;
            assert!(start.elapsed() >= limits.head, "{begun:?}: {:?}", start.elapsed());
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /ready HTTP/1.1\r\nhost: h\r\n\r\nGET").await.unwrap();
        assert!(
            rest(&mut client).await.starts_with("HTTP/1.1 503"),
            "the first is answered, the second cut off"
        );
        assert!(lifecycle.stop().await);
    }

    #[tokio::test]
    async fn an_http_2_connection_without_requests_is_told_goodbye_and_one_that_does_not_listen_is_closed() {
        let lifecycle = Lifecycle::new();
        let limits = Limits { idle: Duration::from_millis(100), ..Limits::default() };
        let address = listening(&lifecycle, limits).await;
        let begun = Instant::now();
        let stream = TcpStream::connect(address).await.unwrap();
        let (_sender, connection) = h2::client::handshake(stream).await.unwrap();
        timeout(Duration::from_secs(5), connection).await.expect("a GOAWAY").unwrap();
        assert!(begun.elapsed() >= limits.idle);
        let mut deaf = TcpStream::connect(address).await.unwrap();
        deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut all = Vec::new();
        timeout(Duration::from_secs(5), deaf.read_to_end(&mut all)).await.expect("its end").unwrap();
        assert!(lifecycle.stop().await);
    }

    #[tokio::test]
    async fn one_connection_too_many_is_told_so() {
        let lifecycle = Lifecycle::new();
        let address = listening(&lifecycle, Limits { connections: 1, ..Limits::default() }).await;
        let first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let told = rest(&mut second).await;
        assert!(told.starts_with("HTTP/1.1 503") && told.contains("connection_limit_reached"), "{told}");
        drop((first, second));
        assert!(lifecycle.stop().await);
    }

    #[tokio::test]
    async fn one_request_too_many_that_would_wait_is_told_so() {
        let lifecycle = Lifecycle::new();
        let address = listening(&lifecycle, Limits::default()).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /token/ HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
        let told = rest(&mut client).await;
        assert!(told.starts_with("HTTP/1.1 503") && told.contains("\"code\":\"busy\""), "{told}");
        assert!(lifecycle.stop().await);
    }
}
