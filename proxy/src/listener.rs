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
use crate::socket;
use crate::upstream::Dialer;

/// Client connections at a time, tunnels among them.
const CONNECTIONS_MAX: usize = 128 * 1024;
/// From the connection's start, or the last answer, to the end of the next request's head.
const HEAD_MAX: Duration = Duration::from_secs(20);
/// Request line and headers; 16 kB of cookies and 8 kB of token fit in.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// What an open file limit that is reached costs: a pause, not a spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests in flight have this long at the end.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// For the last closes to be told to the drones, and for the streams to close before the tunnels do.
const LAST_WORD: Duration = Duration::from_millis(100);
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nproxy-status: jetway; error=connection_limit_reached\r\n\
    retry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

pub struct Listener {
    pub listener: TcpListener,
    pub server: Arc<Server>,
    pub dialer: Arc<Dialer>,
    pub lifecycle: Lifecycle,
    pub tunnels_stop: CancellationToken,
    pub streams_stop: CancellationToken,
}

impl Listener {
    /// Serves until the process stops; then in order: no new connections, requests to their end, streams, tunnels.
    pub async fn run(self) {
        let connections = TaskTracker::new();
        self.lifecycle.token().run_until_cancelled(self.accept_all(&connections)).await;
        let Listener { listener, tunnels_stop, streams_stop, .. } = self;
        drop(listener);
        connections.close();
        if timeout(DRAIN_MAX, connections.wait()).await.is_err() {
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
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
            socket::prepare(&stream);
            let connection = Connection::new(peer, self.dialer.clone(), self.tunnels_stop.clone(), permit);
            let serve = serve(stream, connection, self.server.clone(), self.lifecycle.clone());
            self.lifecycle.spawn(connections.track_future(serve));
        }
    }
}

/// One connection's HTTP, until its end or its upgrade.
async fn serve(stream: TcpStream, connection: Connection, server: Arc<Server>, lifecycle: Lifecycle) {
    let connection = Arc::new(connection);
    let (peer, cut, end) = (connection.peer, connection.cut.clone(), connection.tunnels_stop.clone());
    let service = service_fn(move |request| {
        let (server, connection) = (server.clone(), connection.clone());
        async move { Ok::<_, Infallible>(server.serve(&connection, request).await) }
    });
    // A client that ends its sending side is taken for gone: a closed tab looks the same, and must count as closed.
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
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
