//! The ways to a backend's port: its own address, or through its drone's server.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jetway_protocol::drone_api::{DIAL_PROTOCOL, FENCING_HEADER, PORT_HEADER};
use jetway_service::lifecycle::Lifecycle;
use tokio::net::TcpStream;

use crate::answer::Problem;
use crate::attach::Door;
use crate::upstream::Call;

pub async fn open(lifecycle: &Lifecycle, bearer: &str, call: &Call<'_>) -> Result<TcpStream, Problem> {
    match call.door {
        Door::Direct => direct(call.address).await,
        Door::Drone(server) => through_drone(lifecycle, bearer, server, call).await,
    }
}

async fn direct(address: SocketAddr) -> Result<TcpStream, Problem> {
    let stream = TcpStream::connect(address).await.map_err(|error| connect_problem(&error))?;
    jetway_service::socket::prepare(&stream);
    Ok(stream)
}

/// The byte stream that the drone's server makes of `GET /b/{id}/dial`.
async fn through_drone(
    lifecycle: &Lifecycle,
    bearer: &str,
    server: &str,
    call: &Call<'_>,
) -> Result<TcpStream, Problem> {
    let Call { key, address, .. } = call;
    let stream = TcpStream::connect(server).await.map_err(|error| connect_problem(&error))?;
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
    if !parts.read_buf.is_empty() {
        // An HTTP server never speaks first.
        return Err(Problem::Terminated);
    }
    Ok(parts.io.into_inner())
}

fn connect_problem(error: &std::io::Error) -> Problem {
    match error.kind() {
        std::io::ErrorKind::TimedOut => Problem::ConnectTimeout,
        _ => Problem::Refused,
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
