//! The door: accepts client connections, bounds them, reads their heads in time, and closes them in order.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jetway_service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::Connection;
use crate::serve::Server;
use crate::upstream::Dialer;

/// Request line and headers; 16 kB of cookies and 8 kB of token fit in.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const BUFFER_BYTES_MAX: usize = 64 * 1024;
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
    connections: usize,
    /// From the connection's start, or the last answer, to the end of the next request's head.
    head: Duration,
    /// Requests in flight have this long at the end.
    drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 128 * 1024, head: Duration::from_secs(20), drain: Duration::from_secs(5) }
    }
}

pub struct Listener {
    pub listener: TcpListener,
    pub server: Arc<Server>,
    pub dialer: Arc<Dialer>,
    pub lifecycle: Lifecycle,
    pub tunnels_stop: CancellationToken,
    pub streams_stop: CancellationToken,
    pub limits: Limits,
}

impl Listener {
    /// Serves until the process stops; then in order: no new connections, requests to their end, streams, tunnels.
    pub async fn run(self) {
        let connections = TaskTracker::new();
        self.lifecycle.token().run_until_cancelled(self.accept_all(&connections)).await;
        let Listener { listener, tunnels_stop, streams_stop, limits, .. } = self;
        drop(listener);
        connections.close();
        if timeout(limits.drain, connections.wait()).await.is_err() {
            tracing::info!(connections = connections.len(), "closing connections with requests in flight");
        }
        // Streams first: what clients closed has been told; what we close now must not look like it. The drone then
        // gives the clients its grace to come back through the next proxy.
        sleep(LAST_WORD).await;
        streams_stop.cancel();
        sleep(LAST_WORD).await;
        tunnels_stop.cancel();
    }

    async fn accept_all(&self, connections: &TaskTracker) {
        let permits = Arc::new(Semaphore::new(self.limits.connections));
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
            let connection = Connection::new(peer, self.dialer.clone(), self.tunnels_stop.clone(), permit);
            let serve = serve(stream, connection, self.server.clone(), self.lifecycle.clone(), self.limits);
            self.lifecycle.spawn(connections.track_future(serve));
        }
    }
}

/// One connection's HTTP, until its end or its upgrade.
async fn serve(
    stream: TcpStream,
    connection: Connection,
    server: Arc<Server>,
    lifecycle: Lifecycle,
    limits: Limits,
) {
    let connection = Arc::new(connection);
    let (peer, cut, end) = (connection.peer, connection.cut.clone(), connection.tunnels_stop.clone());
    let service = service_fn(move |request| {
        let (server, connection) = (server.clone(), connection.clone());
        async move { Ok::<_, Infallible>(server.serve(&connection, request).await) }
    });
    // A length beside chunks is dropped by hyper, which reads the chunks and closes the connection after the answer
    // (RFC 9112 §6.1 allows it); no code of ours sees that it was there. To refuse it with a 400, a second parser
    // would have to find the heads in the bytes, and two parsers that disagree are the danger itself.
    //
    // A client that ends its sending side is taken for gone: a closed tab looks the same, and must count as closed.
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(http);
    let ended = tokio::select! {
        ended = http.as_mut() => ended,
        () = cut.cancelled() => Ok(()),
        () = lifecycle.stopping() => {
            http.as_mut().graceful_shutdown();
            tokio::select! {
                ended = http.as_mut() => ended,
                () = end.cancelled() => Ok(()),
            }
        }
    };
    if let Err(reason) = ended {
        tracing::debug!(%peer, %reason, "a client's connection broke");
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
    async fn listening(lifecycle: &Lifecycle, limits: Limits) -> std::net::SocketAddr {
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
        let (server, lifecycle) = (Arc::new(server), lifecycle.clone());
        let listener = Listener { listener, server, dialer, lifecycle, tunnels_stop, streams_stop, limits };
        listener.lifecycle.clone().spawn(listener.run());
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
