//! Connections: accepted up to a limit, each with a timer for its request heads, ended with the process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use jetway_service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::{Gate, router};

/// Controllers' pools, a stream for each proxy, and a connection for each tunnel of a proxy on another host.
const CONNECTIONS_MAX: usize = 16 * 1024;
/// For a request's head, and for an idle connection's next one: longer than our own clients keep theirs.
const HEAD_SECONDS_MAX: u64 = 30;
/// After a failed accept (too many open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub fn serve(listener: TcpListener, gate: Gate, lifecycle: &Lifecycle) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let service = router(gate);
    let connection_life = lifecycle.clone();
    lifecycle.spawn_until_stopped(async move {
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    let life = connection_life.clone();
                    let service = service.clone();
                    connection_life.spawn(async move {
                        connection(stream, from, service, life).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

/// Small messages leave at once, and a peer that vanished is noticed by the kernel.
pub fn set_socket_options(stream: &TcpStream) {
    let _an_option_is_not_worth_the_connection = stream.set_nodelay(true);
    let _nor_is_this_one = rustix::net::sockopt::set_socket_keepalive(stream, true);
}

async fn connection(stream: TcpStream, from: SocketAddr, router: axum::Router, lifecycle: Lifecycle) {
    set_socket_options(&stream);
    let service = TowerToHyperService::new(tower::ServiceExt::map_request(
        router,
        |request: http::Request<Incoming>| request.map(axum::body::Body::new),
    ));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_SECONDS_MAX))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = lifecycle.stopping() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%from, %error, "a connection broke");
    }
}
