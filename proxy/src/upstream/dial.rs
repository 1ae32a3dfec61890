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
use jetway_service::lines::Lines;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::attach::DialVia;
use crate::io::socket::Socket;
use crate::problem::Problem;
use crate::upstream::dial_target::DialTarget;

/// An application that was ready may open its port anew, as some do when they reload their code:
/// that is worth a moment.
const REFUSED_PATIENCE: Duration = Duration::from_millis(500);
const AGAIN_FIRST: Duration = Duration::from_millis(10);
const AGAIN_MAX: Duration = Duration::from_millis(100);
static NO_CONNECTIONS: Lines = Lines::new(20, Duration::from_secs(10));

pub async fn open(lifecycle: &Lifecycle, bearer: &str, call: &DialTarget<'_>) -> Result<Socket, Problem> {
    match call.door {
        DialVia::Direct => Ok(Socket::new(direct(call.address).await?, Bytes::new())),
        DialVia::Drone(server) => through_drone(lifecycle, bearer, server, call).await,
    }
}

async fn direct(address: SocketAddr) -> Result<TcpStream, Problem> {
    let until = Instant::now() + REFUSED_PATIENCE;
    let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_MAX);
    let mut is_first = true;
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                jetway_service::socket::prepare(&stream);
                return Ok(stream);
            }
            Err(error) if may_pass(error.kind(), is_first, Instant::now() < until) => {
                is_first = false;
                backoff.wait().await;
            }
            Err(error) => return Err(connect_problem(address, &error)),
        }
    }
}

/// The byte stream that the drone's server makes of `GET /b/{id}/dial`.
async fn through_drone(
    lifecycle: &Lifecycle,
    bearer: &str,
    server: &str,
    call: &DialTarget<'_>,
) -> Result<Socket, Problem> {
    let DialTarget { key, address, .. } = call;
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
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        tracing::debug!(%status, backend = %key.backend, "the drone does not dial");
        return Err(refused(status));
    }
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(|_| Problem::Terminated)?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| Problem::Internal("not a socket"))?;
    // A server of HTTP/2 may speak first (RFC 9113 §3.4), and be as fast as the drone's answer.
    Ok(Socket::new(parts.io.into_inner(), parts.read_buf))
}

/// A drone's refusal to dial. The end of a session may be known to it before this proxy has heard it
/// on the stream.
fn refused(status: StatusCode) -> Problem {
    match status {
        StatusCode::GONE => Problem::Stopping(None),
        StatusCode::NOT_FOUND => Problem::Unknown,
        StatusCode::TOO_MANY_REQUESTS => Problem::Busy,
        _ => Problem::Refused,
    }
}

/// An address to which packets went before the container had it may still count as unreachable: the
/// kernel has asked for it in vain (arp(7), `mcast_solicit`), which it tells only after up to 3 s,
/// to a connect that was made meanwhile, too. It then asks anew.
fn may_pass(kind: ErrorKind, is_first: bool, is_in_time: bool) -> bool {
    match kind {
        ErrorKind::HostUnreachable => is_first || is_in_time,
        ErrorKind::ConnectionRefused => is_in_time,
        _ => false,
    }
}

fn connect_problem(to: impl std::fmt::Display, error: &std::io::Error) -> Problem {
    if let Some(left_out) = NO_CONNECTIONS.tell() {
        tracing::info!(%to, %error, left_out, "no connection");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_the_drone_knows_first_is_an_end() {
        for (status, expect) in
            [(410, Problem::Stopping(None)), (404, Problem::Unknown), (503, Problem::Refused)]
        {
            assert_eq!(refused(StatusCode::from_u16(status).unwrap()), expect, "{status}");
        }
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        use ErrorKind as K;
        for (kind, is_first, is_in_time, expect) in [
            (K::ConnectionRefused, true, true, true),
            (K::ConnectionRefused, true, false, false),
            (K::HostUnreachable, false, true, true),
            // The kernel told it late: it was not asked anew yet.
            (K::HostUnreachable, true, false, true),
            (K::HostUnreachable, false, false, false),
            (K::TimedOut, true, true, false),
        ] {
            assert_eq!(may_pass(kind, is_first, is_in_time), expect, "{kind:?} {is_first} {is_in_time}");
        }
    }
}
