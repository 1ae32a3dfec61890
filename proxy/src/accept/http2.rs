//! One client connection's HTTP/2: many requests side by side, tunnels among them (RFC 8441), each
//! with limits of its own.
//!
//! h2 bounds the attacks on the connection itself: floods of CONTINUATION frames, of errors, and of
//! streams that are reset before they are seen here. [`crate::client::streams`] bounds later
//! resets.

use std::convert::Infallible;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{Instant, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use crate::accept::http1::HEAD_BYTES_MAX;
use crate::io::executor::Tasks;
use crate::io::socket::Socket;
use crate::request::serving::Serving;

/// Requests and tunnels of one connection at a time (RFC 9113 §6.5.2 wants at least 100).
const STREAMS_MAX: u32 = 128;
/// Bytes of one request's body on their way to us.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// Enough for all of them: a session that does not read an upload must not hold up
/// another's upload.
const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// A client that vanished answers no PING.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_MAX: Duration = Duration::from_secs(20);

pub async fn serve(socket: Socket, serving: Serving) {
    let Serving { connection, server, lifecycle, limits, in_use } = serving;
    let Some(streams) = connection.streams.clone() else { return };
    let (peer, cut, drain) = (connection.peer, connection.cut.clone(), connection.drain.clone());
    let service = service_fn(move |request| {
        let (server, connection) = (server.clone(), connection.clone());
        let asked = connection.streams.as_ref().map(crate::client::streams::Streams::ask);
        async move {
            let response = server.serve(&connection, request).await;
            if let Some(asked) = asked {
                asked.answered();
            }
            Ok::<_, Infallible>(response)
        }
    });
    let tasks = Tasks { lifecycle, end: CancellationToken::new() };
    let _no_stream_outlives_it = tasks.end.clone().drop_guard();
    let http = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_MAX)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(socket), service);
    tokio::pin!(http);
    let unused = async {
        let mut looks = interval_at(Instant::now() + limits.idle, limits.idle);
        let mut was_idle = false;
        loop {
            looks.tick().await;
            if std::mem::replace(&mut was_idle, streams.are_idle()) && was_idle {
                return;
            }
        }
    };
    let ended = tokio::select! {
        ended = http.as_mut() => ended,
        () = cut.cancelled() => Ok(()),
        () = unused => {
            http.as_mut().graceful_shutdown();
            tokio::select! {
                ended = http.as_mut() => ended,
                () = cut.cancelled() => Ok(()),
                // It does not answer, not even that it has heard of the end.
                () = sleep(limits.idle) => Ok(()),
            }
        }
        () = drain.closing() => {
            http.as_mut().graceful_shutdown();
            let last_request = async {
                streams.last_request().await;
                drop(in_use);
                // Its tunnels live until theirs is the turn.
                drain.is_cut().await;
            };
            tokio::select! {
                ended = http.as_mut() => ended,
                () = last_request => Ok(()),
                () = drain.is_cut() => Ok(()),
            }
        }
    };
    if let Err(reason) = ended {
        tracing::debug!(peer = %peer.address, %reason, "a client's connection broke");
    }
}
