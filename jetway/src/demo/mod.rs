//! The demo application: one shared page on which visitors draw and see each other. It runs inside a session
//! (`jetway demo-app`) and knows Jetway only as any application does: by its environment and by request headers.
//!
//! One task: the server. It ends at SIGTERM; each visitor's socket is one more, ended by the same.
//! [`image`] is the other side: it makes the session's image out of our own executable.

pub mod image;
mod room;
mod socket;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::extract::{State, WebSocketUpgrade};
use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jetway_service::lifecycle::Lifecycle;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::cli::signals::StopSignals;
use socket::Rooms;

const PAGE: &str = include_str!("page.html");
/// How long visitors have, at the end, to be told; well within a session's grace.
const GOODBYE: Duration = Duration::from_millis(500);
/// Bytes of one message from a visitor, at most: a few hundred points.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// The page is one file that loads nothing but its own session's data and, from the API, how it was started.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src * ws: wss:";

/// What the page shows of where it is.
#[derive(Debug, Clone, Serialize)]
struct About {
    key: Option<String>,
    backend_id: Option<String>,
    /// The base URL of the API that tells how this session was started.
    api: Option<String>,
}

#[derive(Clone)]
struct App {
    about: Arc<About>,
    rooms: Rooms,
}

/// Serves until SIGTERM.
pub async fn serve(port: u16) -> anyhow::Result<()> {
    let listener = listen(port).await.with_context(|| format!("cannot listen on port {port}"))?;
    println!("the demo listens on port {port}");
    let lifecycle = Lifecycle::new();
    let server = lifecycle.spawn(run(listener, about(), lifecycle.clone()));
    let signal = StopSignals::watch()?.first().await;
    println!("received {signal}, ending");
    let asked = Instant::now();
    let _server_ended = tokio::time::timeout(GOODBYE, async {
        lifecycle.stop().await;
        server.await
    })
    .await;
    println!("ended after {} ms", asked.elapsed().as_millis());
    Ok(())
}

/// Both families where the kernel has both.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

fn about() -> About {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    About {
        key: variable("SESSION_BACKEND_KEY"),
        backend_id: variable("SESSION_BACKEND_ID"),
        api: variable("DEMO_API"),
    }
}

async fn run(listener: TcpListener, about: About, lifecycle: Lifecycle) -> std::io::Result<()> {
    let app = App { about: Arc::new(about), rooms: Rooms::new(lifecycle.clone()) };
    let stopping = lifecycle.token().clone();
    axum::serve(listener, routes(app)).with_graceful_shutdown(stopping.cancelled_owned()).await
}

/// A static token stays in the path (`/s.…/ws`), a dynamic one does not; nothing here depends on what comes before.
fn routes(app: App) -> Router {
    Router::new()
        .route("/about", get(about_json))
        .route("/ws", get(enter))
        .route("/{prefix}/about", get(about_json))
        .route("/{prefix}/ws", get(enter))
        .fallback(get(page))
        .with_state(app)
}

async fn page() -> Response {
    // A session's page must not outlive it in a cache.
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY)];
    (headers, Html(PAGE)).into_response()
}

async fn about_json(State(app): State<App>) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(app.about.as_ref())).into_response()
}

async fn enter(State(app): State<App>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    let verified =
        headers.get("x-verified-username").and_then(|value| value.to_str().ok()).map(str::to_owned);
    upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .read_buffer_size(MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| app.rooms.visit(socket, verified))
}

#[cfg(test)]
mod tests;
