//! From the backend's 101 to the tunnel. Nothing is carried before the 101, and nothing that came glued to it is lost.

use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::answer::Problem;
use crate::body::OutBody;
use crate::forward::Exchange;
use crate::headers;
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

/// Answers the 101; the tunnel begins when the client has got it.
pub fn switch(
    exchange: Exchange<'_>,
    upstream: Upstream,
    mut response: Response<Incoming>,
    client: OnUpgrade,
) -> Result<Response<OutBody>, Problem> {
    let backend = hyper::upgrade::on(&mut response);
    headers::to_client(response.headers_mut(), &exchange.key.backend, true);
    let mut using = exchange.admission.using;
    // From here on its close is the close: no linger.
    using.linger = None;
    let gate = exchange.admission.gate;
    let stop = exchange.connection.tunnels_stop.clone();
    let place = exchange.connection.place.clone();
    exchange.connection.dialer.lifecycle.spawn(async move {
        let carry = async {
            let sides =
                timeout(SWITCH_MAX, both(client, backend)).await.unwrap_or(Err(NotSwitched::TimedOut));
            drop(upstream);
            match sides {
                Ok((client, backend)) => tunnel::run(client, backend, tunnel::HALF_CLOSED_MAX).await,
                Err(reason) => tracing::debug!(%reason, "no tunnel after a 101"),
            }
        };
        tokio::select! {
            () = carry => {}
            _ = gate.closed() => {}
            () = stop.cancelled() => {}
        }
        // Named, so that it moves in here: the use ends when the sockets have.
        drop((using, place));
    });
    Ok(response.map(|_| OutBody::own(bytes::Bytes::new())))
}

async fn both(client: OnUpgrade, backend: OnUpgrade) -> Result<(Side, Side), NotSwitched> {
    let (client, backend) = tokio::try_join!(client, backend)?;
    Ok((side(client)?, side(backend)?))
}

fn side(upgraded: Upgraded) -> Result<Side, NotSwitched> {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| NotSwitched::NotASocket)?;
    Ok(Side { stream: parts.io.into_inner(), early: parts.read_buf })
}
