//! From the backend's 101 to the tunnel, and to its last word. Nothing is carried before the 101,
//! and nothing that came glued to it is lost.

use std::time::Duration;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::client::connection::Connection;
use crate::drain::Drain;
use crate::forward::exchange::Exchange;
use crate::forward::response_body::ResponseBody;
use crate::forward::switch::Switch;
use crate::headers;
use crate::io::socket::Socket;
use crate::problem::Problem;
use crate::tunnel::close::Words;
use crate::tunnel::close_code::CloseCode;
use crate::tunnel::{self, Side};
use crate::upstream::Upstream;
use crate::upstream::interim::Watched;

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
enum ClientSide {
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
) -> Result<Response<ResponseBody>, Problem> {
    if !switch.is_answered_by(response.headers()) {
        return Err(Problem::NotSwitched);
    }
    *response.version_mut() = http::Version::HTTP_11;
    let backend = hyper::upgrade::on(&mut response);
    let kind = if switch.is_connect() { headers::Switched::Stream } else { headers::Switched::Connection };
    headers::to_client(response.headers_mut(), &exchange.fixed.backend, &exchange.served(), Some(kind));
    if switch.is_connect() {
        *response.status_mut() = StatusCode::OK;
    }
    let mut using = exchange.admission.using;
    // From here on its close is the close: no linger.
    using.linger = None;
    let gate = exchange.admission.gate;
    let (drain, is_websocket) = (exchange.connection.drain.clone(), switch.is_websocket);
    let counted = drain.tunnels.token();
    let place = exchange.connection.place.clone();
    let open = exchange.connection.streams.as_ref().map(crate::client::streams::Streams::tunnel);
    exchange.connection.dialer.lifecycle.spawn(async move {
        let carry = async {
            let sides = timeout(SWITCH_MAX, both(switch.client, backend));
            let (mut client, backend) = sides.await.unwrap_or(Err(NotSwitched::TimedOut))?;
            drop(upstream);
            let words = is_websocket.then(|| Words { turn: drain.turn_to_leave(&gate), gate: &gate });
            let last_word = match &mut client {
                ClientSide::Socket(side) => tunnel::run(side, backend, tunnel::HALF_CLOSED_MAX, words).await,
                ClientSide::Tls(socket) => {
                    tunnel::run_stream(socket, backend, tunnel::HALF_CLOSED_MAX, words).await
                }
                ClientSide::Stream(stream) => {
                    tunnel::run_stream(stream, backend, tunnel::HALF_CLOSED_MAX, words).await
                }
            };
            Ok(last_word.map(|code| (client, code)))
        };
        let told = tokio::select! {
            biased;
            carried = carry => carried.unwrap_or_else(|reason: NotSwitched| {
                tracing::debug!(%reason, "no tunnel after a 101");
                None
            }),
            () = drain.over(&gate, is_websocket) => None,
        };
        // Named, so that they move in here: the use ends when the backend's socket has, and the
        // address is free before the client has taken its last frame.
        drop((using, gate));
        if let Some((client, code)) = told {
            Box::pin(client.hear(code, &drain)).await;
        }
        drop((place, open, counted));
    });
    Ok(response.map(|_| ResponseBody::own(bytes::Bytes::new())))
}

/// Tells a client that has no backend why, once it has got the answer to its handshake.
pub fn close(client: OnUpgrade, code: CloseCode, connection: &Connection) {
    let drain = connection.drain.clone();
    let counted = drain.tunnels.token();
    let place = connection.place.clone();
    let open = connection.streams.as_ref().map(crate::client::streams::Streams::tunnel);
    connection.dialer.lifecycle.spawn(async move {
        match timeout(SWITCH_MAX, client).await {
            Ok(Ok(upgraded)) => ClientSide::from(upgraded).hear(code, &drain).await,
            Ok(Err(reason)) => tracing::debug!(%reason, "a client did not wait for its answer"),
            Err(_) => tracing::debug!("an answer did not reach its client in time"),
        }
        drop((place, open, counted));
    });
}

impl ClientSide {
    /// The last frame, unless this process ends before its client has taken it.
    async fn hear(self, code: CloseCode, drain: &Drain) {
        let said = async {
            match self {
                ClientSide::Socket(side) => code.say_to(side.stream).await,
                ClientSide::Tls(socket) => code.say_to(socket).await,
                ClientSide::Stream(stream) => code.say_to(stream).await,
            }
        };
        tokio::select! {
            biased;
            () = said => {}
            () = drain.is_cut() => {}
        }
    }
}

impl From<Upgraded> for ClientSide {
    fn from(upgraded: Upgraded) -> Self {
        match upgraded.downcast::<TokioIo<Socket>>() {
            Ok(parts) => match parts.io.into_inner().after(parts.read_buf).into_tcp() {
                Ok((stream, early)) => ClientSide::Socket(Side { stream, early }),
                Err(socket) => ClientSide::Tls(socket),
            },
            Err(stream) => ClientSide::Stream(TokioIo::new(stream)),
        }
    }
}

async fn both(client: OnUpgrade, backend: OnUpgrade) -> Result<(ClientSide, Side), NotSwitched> {
    let (client, backend) = tokio::try_join!(client, backend)?;
    let parts = backend.downcast::<TokioIo<Watched>>().map_err(|_| NotSwitched::NotASocket)?;
    let stream = parts.io.into_inner().into_inner().into_tcp();
    let (stream, _read_before_the_switch) = stream.map_err(|_| NotSwitched::NotASocket)?;
    Ok((client.into(), Side { stream, early: parts.read_buf }))
}
