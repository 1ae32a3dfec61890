//! From the backend's 101 to the tunnel. Nothing is carried before the 101, and nothing that came glued to it is lost.

use std::time::Duration;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::answer::Problem;
use crate::body::OutBody;
use crate::forward::Exchange;
use crate::headers;
use crate::socket::Socket;
use crate::switch::Switch;
use crate::tunnel::{self, Side};
use crate::upstream::Upstream;

/// For the 101 to be written to the client, and both sockets to be handed over.
const SWITCH_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum NotSwitched {
    #[error("a side broke off")]
    Broken(#[from] hyper::Error),
    #[error("the upgraded connection is not the socket that it began as")]
    NotASocket,
    #[error("the 101 did not reach the client in time")]
    TimedOut,
}

/// The client's side of a tunnel.
enum Client {
    Socket(Side),
    Tls(Socket),
    /// One of several streams of a connection.
    Stream(TokioIo<Upgraded>),
}

/// Answers the 101; the tunnel begins when the client has got it.
pub fn switch(
    exchange: Exchange<'_>,
    upstream: Upstream,
    mut response: Response<Incoming>,
    switch: Switch,
) -> Result<Response<OutBody>, Problem> {
    if !switch.is_answered_by(response.headers()) {
        return Err(Problem::NotSwitched);
    }
    *response.version_mut() = http::Version::HTTP_11;
    let backend = hyper::upgrade::on(&mut response);
    let kind = if switch.is_connect() { headers::Switched::Stream } else { headers::Switched::Connection };
    let shared = exchange.shared();
    headers::to_client(response.headers_mut(), &exchange.standing.backend, shared.as_ref(), Some(kind));
    if switch.is_connect() {
        *response.status_mut() = StatusCode::OK;
    }
    let mut using = exchange.admission.using;
    // From here on its close is the close: no linger.
    using.linger = None;
    let gate = exchange.admission.gate;
    let (ending, is_websocket) = (exchange.connection.ending.clone(), switch.is_websocket);
    let counted = ending.tunnels.token();
    let place = exchange.connection.place.clone();
    let open = exchange.connection.streams.as_ref().map(crate::streams::Streams::tunnel);
    exchange.connection.dialer.lifecycle.spawn(async move {
        let carry = async {
            let sides = timeout(SWITCH_MAX, both(switch.client, backend));
            let sides = sides.await.unwrap_or(Err(NotSwitched::TimedOut));
            drop(upstream);
            let leave = is_websocket.then(|| ending.turn_to_leave(&gate));
            match sides {
                Ok((Client::Socket(client), backend)) => {
                    tunnel::run(client, backend, tunnel::HALF_CLOSED_MAX, leave).await;
                }
                Ok((Client::Tls(client), backend)) => {
                    tunnel::run_stream(client, backend, tunnel::HALF_CLOSED_MAX, leave).await;
                }
                Ok((Client::Stream(client), backend)) => {
                    tunnel::run_stream(client, backend, tunnel::HALF_CLOSED_MAX, leave).await;
                }
                Err(reason) => tracing::debug!(%reason, "no tunnel after a 101"),
            }
        };
        tokio::select! {
            biased;
            () = carry => {}
            () = ending.over(&gate) => {}
        }
        // Named, so that it moves in here: the use ends when the sockets have.
        drop((using, place, open, counted));
    });
    Ok(response.map(|_| OutBody::own(bytes::Bytes::new())))
}

async fn both(client: OnUpgrade, backend: OnUpgrade) -> Result<(Client, Side), NotSwitched> {
    let (client, backend) = tokio::try_join!(client, backend)?;
    let client = match client.downcast::<TokioIo<Socket>>() {
        Ok(parts) => match parts.io.into_inner().after(parts.read_buf).into_tcp() {
            Ok((stream, early)) => Client::Socket(Side { stream, early }),
            Err(socket) => Client::Tls(socket),
        },
        Err(stream) => Client::Stream(TokioIo::new(stream)),
    };
    let parts = backend.downcast::<TokioIo<Socket>>().map_err(|_| NotSwitched::NotASocket)?;
    let stream = parts.io.into_inner().into_tcp();
    let (stream, _read_before_the_switch) = stream.map_err(|_| NotSwitched::NotASocket)?;
    Ok((client, Side { stream, early: parts.read_buf }))
}
