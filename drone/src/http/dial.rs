//! `GET /b/{id}/dial`: a byte stream to a backend's port, for proxies that do not share this host. The bytes are never
//! looked at; which client they belong to, and what counts as a use, is the proxy's.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use jetway_protocol::drone_api::{DIAL_MAX, DIAL_PROTOCOL, FENCING_HEADER, PORT_HEADER, RefusalCode};
use jetway_protocol::ids::FencingToken;
use jetway_protocol::state::BackendState;
use jetway_service::server::Place;
use jetway_service::socket::Patient;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::gate::Gate;
use super::refusal::{Id, No, Serving, check_fencing, live, no};

/// After the 101 the proxy's side must take over within this.
const UPGRADE_SECONDS_MAX: u64 = 10;
/// After one direction has ended, the other one may take this long: a peer that never ends keeps no tunnel for ever.
const HALF_CLOSED_SECONDS_MAX: u64 = 60;
/// What one direction has under way.
const BUFFER_BYTES: usize = 16 * 1024;

pub async fn dial(
    State(gate): State<Gate>,
    Serving(agent): Serving,
    Id(id): Id,
    mut request: Request,
) -> Result<Response, No> {
    let given = fencing_token(request.headers())?;
    let upgrade = upgrade(&mut request)?;
    let backend = live(&agent, &id)?;
    check_fencing(&backend, given)?;
    let BackendState::Ready { mut address } = backend.snapshot().state else {
        return Err(no(RefusalCode::Unavailable, format!("{id} is {}", backend.status())));
    };
    if let Some(port) = port(request.headers())? {
        if !backend.ports.contains(&port) {
            return Err(no(RefusalCode::NotOffered, format!("the spec of {id} has no port {port}")));
        }
        address.set_port(port);
    }
    let tunnel = gate.tunnels.enter(&id).ok_or_else(|| {
        no(
            RefusalCode::Busy,
            format!("too many connections to {id}, or of this drone, are open; try again soon"),
        )
    })?;
    let stream = timeout(DIAL_MAX, TcpStream::connect(address)).await;
    let stream =
        stream.map_err(|_| no(RefusalCode::Unavailable, format!("{id} accepts no connection in time")))?;
    let stream =
        stream.map_err(|error| no(RefusalCode::Unavailable, format!("{id} takes no connection: {error}")))?;
    jetway_service::socket::prepare(&stream);
    // The connection's own task ends with the 101; its place is given back when the tunnel ends.
    let place = request.extensions_mut().remove::<Place>();
    agent.lifecycle.spawn_until_stopped(async move {
        let _places = (place, tunnel);
        if let Ok(Ok(client)) = timeout(Duration::from_secs(UPGRADE_SECONDS_MAX), upgrade).await {
            match client.downcast::<TokioIo<TcpStream>>() {
                Ok(Parts { io, read_buf, .. }) => {
                    let (client, backend) = (Patient::new(io.into_inner()), Patient::new(stream));
                    join(client, backend, &read_buf).await;
                }
                Err(_) => tracing::error!(backend = %id, "a dialled connection is no socket"),
            }
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, DIAL_PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

fn fencing_token(headers: &HeaderMap) -> Result<FencingToken, No> {
    let text = headers.get(FENCING_HEADER).and_then(|value| value.to_str().ok());
    let number = text.and_then(|text| text.parse().ok());
    number
        .map(FencingToken)
        .ok_or_else(|| no(RefusalCode::Invalid, format!("the header {FENCING_HEADER} must be a number")))
}

/// `None`: the main one.
fn port(headers: &HeaderMap) -> Result<Option<u16>, No> {
    let Some(value) = headers.get(PORT_HEADER) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| no(RefusalCode::Invalid, format!("the header {PORT_HEADER} must be a port")))
}

fn upgrade(request: &mut Request) -> Result<OnUpgrade, No> {
    let asked = request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|name| name.as_bytes() == DIAL_PROTOCOL.as_bytes());
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| asked);
    upgrade.ok_or_else(|| {
        no(RefusalCode::Invalid, format!("this route needs Connection: upgrade and Upgrade: {DIAL_PROTOCOL}"))
    })
}

/// Both directions until both have ended; one that ends is passed on while the other goes on, for a while. An error
/// ends both.
///
/// `early`: what the client has said already.
async fn join(
    client: impl AsyncRead + AsyncWrite + Unpin,
    backend: impl AsyncRead + AsyncWrite + Unpin,
    early: &[u8],
) {
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut backend_read, mut backend_write) = tokio::io::split(backend);
    let to_backend = async {
        backend_write.write_all(early).await?;
        copy(&mut client_read, &mut backend_write).await
    };
    let to_client = copy(&mut backend_read, &mut client_write);
    tokio::pin!(to_backend, to_client);
    let half_closed = Duration::from_secs(HALF_CLOSED_SECONDS_MAX);
    // What is left open is closed by dropping it.
    tokio::select! {
        first = &mut to_backend => if first.is_ok() { drop(timeout(half_closed, to_client).await) },
        first = &mut to_client => if first.is_ok() { drop(timeout(half_closed, to_backend).await) },
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut from = tokio::io::BufReader::with_capacity(BUFFER_BYTES, from);
    tokio::io::copy_buf(&mut from, to).await?;
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_tunnel_does_not_stay_for_ever() {
        let ((mut client, near), (far, mut backend)) = (duplex(64), duplex(64));
        let started = Instant::now();
        let ends = async {
            client.shutdown().await.unwrap();
            assert_eq!(backend.read(&mut [0; 8]).await.unwrap(), 0, "the end is passed on");
            backend.write_all(b"still here").await.unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "still here");
        };
        tokio::join!(join(near, far, b""), ends);
        assert_eq!(started.elapsed().as_secs(), HALF_CLOSED_SECONDS_MAX);
    }
}
