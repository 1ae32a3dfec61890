//! One client connection's HTTP/1.1, until its end or its upgrade.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use crate::client::connection::Connection;
use crate::io::socket::Socket;
use crate::peer::forwarders::Peer;
use crate::plain::{self, Next};
use crate::request::serving::Serving;

/// Request line and headers; 16 kB of cookies and 8 kB of token fit in.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
const BUFFER_BYTES_MAX: usize = 64 * 1024;

pub async fn serve(socket: Socket, serving: Serving) {
    // The plain lane comes first. Its task's size is not for all of the connection's life.
    let (socket, has_served) = match Box::pin(plain::serve(socket, &serving)).await {
        Next::Over => return,
        Next::Hyper { socket, has_served } => (socket, has_served),
    };
    let Serving { connection, server, limits, in_use: _in_use, .. } = serving;
    let (peer, cut, drain) = (connection.peer, connection.cut.clone(), connection.drain.clone());
    let (first, tended) = (CancellationToken::new(), connection.clone());
    if has_served {
        first.cancel();
    }
    let asked = first.clone();
    let service = service_fn(move |request| {
        asked.cancel();
        let (server, connection) = (server.clone(), connection.clone());
        async move { Ok::<_, Infallible>(server.serve(&connection, request).await) }
    });
    // A length beside chunks is dropped by hyper, which reads the chunks and closes the connection
    // after the answer (RFC 9112 §6.1 allows it); no code of ours sees that it was there. To refuse
    // it with a 400, a second parser would have to find the heads in the bytes, and two parsers
    // that disagree are the danger itself.
    //
    // A client that ends its sending side is taken for gone: a closed tab looks the same, and must
    // count as closed.
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    tokio::pin!(http);
    let ended = tokio::select! {
        ended = served(http.as_mut(), &tended) => ended,
        () = cut.cancelled() => Ok(()),
        () = drain.closing() => {
            // A client that has just connected is about to ask. One that was served knows that an
            // idle connection may be closed.
            tokio::select! {
                ended = served(http.as_mut(), &tended) => return log(&peer, ended),
                () = first.cancelled() => {}
                () = drain.last_chance() => {}
            }
            http.as_mut().graceful_shutdown();
            tokio::select! {
                ended = served(http.as_mut(), &tended) => ended,
                () = drain.is_cut() => Ok(()),
            }
        }
    };
    log(&peer, ended);
}

/// And after each of its turns, upstreams that wait for the next request are looked after.
async fn served<F: Future>(mut http: Pin<&mut F>, connection: &Connection) -> F::Output {
    poll_fn(|cx| {
        let ended = http.as_mut().poll(cx);
        if ended.is_pending() {
            connection.tend(cx);
        }
        ended
    })
    .await
}

fn log(peer: &Peer, ended: hyper::Result<()>) {
    if let Err(reason) = ended {
        tracing::debug!(peer = %peer.address, %reason, "a client's connection broke");
    }
}
