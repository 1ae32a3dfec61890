//! The ways to a backend's port: its own address, or through its drone's server.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jetway_protocol::drone_api::{DIAL_PROTOCOL, FENCING_HEADER, PORT_HEADER};
use jetway_service::backoff::Backoff;
use jetway_service::lifecycle::Lifecycle;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::answer::Problem;
use crate::attach::Door;
use crate::socket::Socket;
use crate::upstream::Call;

/// An application that was ready may open its port anew, as some do when they reload their code: that is worth a moment.
const REFUSED_PATIENCE: Duration = Duration::from_millis(500);
const AGAIN_FIRST: Duration = Duration::from_millis(10);
const AGAIN_MAX: Duration = Duration::from_millis(100);

pub async fn open(lifecycle: &Lifecycle, bearer: &str, call: &Call<'_>) -> Result<Socket, Problem> {
    match call.door {
        Door::Direct => Ok(Socket::new(direct(call.address).await?, Bytes::new())),
        Door::Drone(server) => through_drone(lifecycle, bearer, server, call).await,
    }
}

async fn direct(address: SocketAddr) -> Result<TcpStream, Problem> {
    let until = Instant::now() + REFUSED_PATIENCE;
    let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_MAX);
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                jetway_service::socket::prepare(&stream);
                return Ok(stream);
            }
            Err(error) if may_pass(error.kind()) && Instant::now() < until => backoff.wait().await,
            Err(error) => return Err(connect_problem(address, &error)),
        }
    }
}

/// The byte stream that the drone's server makes of `GET /b/{id}/dial`.
async fn through_drone(
    lifecycle: &Lifecycle,
    bearer: &str,
    server: &str,
    call: &Call<'_>,
) -> Result<Socket, Problem> {
    let Call { key, address, .. } = call;
    let stream = TcpStream::connect(server).await.map_err(|error| connect_problem(server, &error))?;
    jetway_service::socket::prepare(&stream);
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|_| Problem::Terminated)?;
    let driver = lifecycle.spawn_until_stopped(async move {
        let _its_end_is_seen_by_the_request = connection.with_upgrades().await;
    });
    let _end = AbortOnDrop(driver);
    let request = Request::get(format!("/b/{}/dial", key.backend))
        .header(HOST, server)
        .header(AUTHORIZATION, format!("Bearer {bearer}"))
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, DIAL_PROTOCOL)
        .header(FENCING_HEADER, key.fencing_token.0)
        .header(PORT_HEADER, address.port())
        .body(Empty::<Bytes>::new())
        .map_err(|_| Problem::Internal("the drone's address cannot be written as a header"))?;
    let mut response = sender.send_request(request).await.map_err(|_| Problem::Terminated)?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => {}
        StatusCode::GONE | StatusCode::NOT_FOUND => return Err(Problem::Unknown),
        status => {
            tracing::debug!(%status, backend = %key.backend, "the drone does not dial");
            return Err(Problem::Refused);
        }
    }
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(|_| Problem::Terminated)?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| Problem::Internal("not a socket"))?;
    // A server of HTTP/2 may speak first (RFC 9113 §3.4), and be as fast as the drone's answer.
    Ok(Socket::new(parts.io.into_inner(), parts.read_buf))
}

/// An address that somebody else's packets went to before the container had it may still count as unreachable: the kernel has asked
/// for it in vain (arp(7), `mcast_solicit`), and asks anew.
fn may_pass(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable)
}

fn connect_problem(to: impl std::fmt::Display, error: &std::io::Error) -> Problem {
    tracing::info!(%to, %error, "no connection");
    match error.kind() {
        ErrorKind::TimedOut => Problem::ConnectTimeout,
        _ => Problem::Refused,
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
