//! The application inside the sessions of the whole-system tests: an echo server that can also misbehave on request.
//!
//! `MODE`: `serve` (default), `exit` (at once, code 3), `never` (listens nowhere), `deaf` (serves, ignores SIGTERM),
//! `mortal` (serves, and dies of SIGTERM by its default action).
//! `LISTEN`: an address instead of `0.0.0.0`; `LISTEN_PORT`: another port than `PORT`; `SECOND_PORT`: one that says who it is;
//! `START_DELAY_MS`; `FLOOD`: a Unix socket that it connects to in a loop, on a thread of its own; `FILES`: what it serves besides.

mod site;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, RawQuery};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

const PIECE_BYTES: usize = 64 * 1024;

/// When the last WebSocket closed, on this process's own clock.
static LAST_CLOSE: Mutex<Option<Instant>> = Mutex::new(None);
/// What it was told of its session, where it ran before that.
static CLAIM: Mutex<Option<Value>> = Mutex::new(None);
/// That came with requests for its page.
static COOKIES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// How often it has tried to connect where `FLOOD` says.
static DIALS: AtomicU64 = AtomicU64::new(0);
/// Connections that it keeps meanwhile.
const KEPT_MAX: usize = 500;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("test application, pid {}", std::process::id());
    match variable("MODE").as_deref() {
        Some("exit") => {
            eprintln!("boom: this application exits at once");
            std::process::exit(3);
        }
        Some("never") => stop_signal(false).await,
        Some("deaf") => serve(stop_signal(true)).await,
        Some("mortal") => serve(std::future::pending()).await,
        None | Some(_) => serve(stop_signal(false)).await,
    }
}

/// Without waiting where nobody accepts; each connection is kept for a while.
fn flood(path: &str) {
    let mut kept = std::collections::VecDeque::new();
    let mut address =
        libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    let length = std::mem::size_of::<libc::sockaddr_un>() as libc::socklen_t;
    loop {
        // SAFETY: the address is whole and ended by a zero; the descriptors are this function's
        // own.
        unsafe {
            let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
            libc::connect(socket, (&raw const address).cast(), length);
            kept.push_back(socket);
            if kept.len() > KEPT_MAX
                && let Some(oldest) = kept.pop_front()
            {
                libc::close(oldest);
            }
        }
        DIALS.fetch_add(1, Ordering::Relaxed);
    }
}

async fn serve(until: impl Future<Output = ()>) {
    if let Some(path) = variable("FLOOD") {
        std::thread::spawn(move || flood(&path));
    }
    if let Some(delay) = variable("START_DELAY_MS").and_then(|delay| delay.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let port = variable("LISTEN_PORT").or_else(|| variable("PORT")).unwrap_or_else(|| "8080".to_owned());
    let host = variable("LISTEN").unwrap_or_else(|| "0.0.0.0".to_owned());
    if let Some(second) = variable("SECOND_PORT") {
        let listener = tokio::net::TcpListener::bind(format!("{host}:{second}")).await;
        let routes = Router::new().fallback(async || "the second port");
        #[expect(clippy::disallowed_methods, reason = "it ends with the process")]
        tokio::spawn(async { axum::serve(listener.expect("the address is free"), routes).await });
    }
    let listener =
        tokio::net::TcpListener::bind(format!("{host}:{port}")).await.expect("the address is free");
    println!("listening on {host}:{port}");
    let routes = Router::new()
        .route("/", get(async || "hello"))
        .route("/ws", any(upgrade))
        .route("/env", get(environment))
        .route("/identity", get(identity))
        .route("/claim", post(claim))
        .route("/claimed", get(claimed))
        .route("/headers", any(headers))
        .route("/upload", post(upload))
        .route("/download", get(download))
        .route("/page", get(page))
        .route("/cookies", get(async || Json(COOKIES.lock().expect("no panic").clone())))
        .route("/refuse", any(refuse))
        .route("/allocate", get(allocate))
        .route("/exit", get(exit))
        .route("/flooded", get(async || DIALS.load(Ordering::Relaxed).to_string()))
        .route("/reach", get(reach))
        .layer(axum::extract::DefaultBodyLimit::disable());
    let routes = match variable("FILES") {
        Some(files) => site::with_files(routes, &files),
        None => routes,
    };
    tokio::select! {
        served = axum::serve(listener, routes) => served.expect("serving does not fail"),
        () = until => {}
    }
}

/// Says when the signal came, and how long after the last close; a deaf application goes on.
async fn stop_signal(deaf: bool) {
    let mut terminate = signal(SignalKind::terminate()).expect("signals work");
    loop {
        terminate.recv().await;
        let since = LAST_CLOSE.lock().expect("no panic holds it").map(|at| at.elapsed().as_micros());
        println!("{}", json!({ "signal": "SIGTERM", "since_last_close_us": since }));
        if !deaf {
            return;
        }
    }
}

async fn upgrade(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo)
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        match message {
            Message::Text(text) if text.starts_with("exit ") => {
                std::process::exit(text.trim_start_matches("exit ").parse().unwrap_or(1));
            }
            Message::Text(text) if text == "abort" => std::process::abort(),
            Message::Text(_) | Message::Binary(_) => {
                if socket.send(message).await.is_err() {
                    break;
                }
            }
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
    *LAST_CLOSE.lock().expect("no panic holds it") = Some(Instant::now());
}

async fn environment() -> Json<BTreeMap<String, String>> {
    Json(std::env::vars().collect())
}

/// A hot application's session.
async fn claim(Json(session): Json<Value>) {
    *CLAIM.lock().expect("no panic holds it") = Some(session);
}

async fn claimed() -> Json<Option<Value>> {
    Json(CLAIM.lock().expect("no panic holds it").clone())
}

async fn identity() -> Json<Value> {
    // SAFETY: these calls only read the process's own ids.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    let directory = std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default();
    let write = std::fs::write("/written-by-the-test", "x").is_ok();
    Json(
        json!({ "pid": std::process::id(), "uid": uid, "gid": gid, "directory": directory, "can_write_root": write }),
    )
}

async fn headers(headers: HeaderMap, RawQuery(query): RawQuery, uri: axum::http::Uri) -> Json<Value> {
    let pairs: Vec<_> = headers
        .iter()
        .map(|(name, value)| [name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()])
        .collect();
    Json(json!({ "path": uri.path(), "query": query, "headers": pairs }))
}

/// A page that runs, and leaves a cookie that no script can read on its origin.
async fn page(headers: HeaderMap) -> Response {
    let cookies = headers
        .get_all("cookie")
        .iter()
        .map(|cookie| String::from_utf8_lossy(cookie.as_bytes()).into_owned());
    COOKIES.lock().expect("no panic").extend(cookies);
    let own = format!("secret={}; Path=/; HttpOnly", variable("SESSION_BACKEND_ID").unwrap_or_default());
    let html = "<!doctype html><title>page</title><script>document.title = 'it ran'</script>";
    ([("content-type", "text/html"), ("set-cookie", own.as_str())], html).into_response()
}

async fn upload(body: Body) -> String {
    let (mut pieces, mut bytes) = (body.into_data_stream(), 0);
    while let Some(Ok(piece)) = pieces.next().await {
        bytes += piece.len();
    }
    bytes.to_string()
}

/// In pieces, so that any number of bytes is none of its memory.
async fn download(Query(query): Query<BTreeMap<String, usize>>) -> Response {
    let bytes = query.get("bytes").copied().unwrap_or(1024);
    let piece = Bytes::from(vec![b'x'; PIECE_BYTES]);
    let pieces = futures_util::stream::unfold(bytes, move |left| {
        let piece = piece.slice(..left.min(PIECE_BYTES));
        async move { (left > 0).then(|| (Ok::<_, std::io::Error>(piece.clone()), left - piece.len())) }
    });
    ([("content-length", bytes.to_string())], Body::from_stream(pieces)).into_response()
}

async fn refuse() -> Response {
    (StatusCode::FORBIDDEN, [("x-reason", "because")], "not for you").into_response()
}

/// Takes memory until the kernel has had enough.
async fn allocate() -> String {
    let mut kept = Vec::new();
    for _ in 0..4096 {
        kept.push(vec![1_u8; 1 << 20]);
    }
    format!("{} MiB", kept.len())
}

async fn exit(Query(query): Query<BTreeMap<String, i32>>) -> String {
    std::process::exit(query.get("code").copied().unwrap_or(0));
}

/// Whether a TCP connection to `to` can be made from inside the session.
async fn reach(Query(query): Query<BTreeMap<String, String>>) -> Json<Value> {
    let to = query.get("to").cloned().unwrap_or_default();
    let outcome = tokio::time::timeout(Duration::from_secs(2), tokio::net::TcpStream::connect(&to)).await;
    Json(json!({ "reached": matches!(outcome, Ok(Ok(_))) }))
}
