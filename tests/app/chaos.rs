//! The application inside the sessions of the chaos run: it says who it is to whoever comes, echoes, and keeps a file of
//! heartbeats (`beats.rs`) in `/jcx`, so that nobody can deny that it was alive.
//!
//! Started without a session it is hot: it serves, writes nothing, and is told by `POST /claim` whose it is. It takes whatever it is
//! told, also twice, and keeps a file of each: whether it may be told twice is the checker's question.
//!
//! Each process keeps a lock of its key's file in `/jcx-keys`, which all sessions of the run share. The kernel gives it back in the
//! moment in which the process ends, so that a second process knows whether the one before it lives.
//!
//! `BEATS`, `LOCKS`: other directories. `DEAF`: ignores SIGTERM. `STOP_DELAY_MS`: takes so long to leave after SIGTERM.
//! `RUN_MS`: leaves after so long (for the planted process, which serves nobody).

#[expect(dead_code, reason = "the checker reads what this writes")]
mod beats;

use std::collections::{HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use beats::Beats;

const BEAT_EVERY: Duration = Duration::from_millis(10);

type Environment = HashMap<String, String>;

/// One session, as far as it goes.
struct Record {
    file: File,
    beats: Beats,
    environment: Environment,
    /// Of its key, where it got it.
    _lock: Option<File>,
    /// Requests that it has carried out, by the name that their clients gave them.
    posted: HashSet<String>,
}

/// One, or none before a hot application is told; more only where something is very wrong.
static RECORDS: Mutex<Vec<Record>> = Mutex::new(Vec::new());

fn records() -> MutexGuard<'static, Vec<Record>> {
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the time into a structure of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Before anything else of a session: what runs and has not said so would be invisible.
fn open(environment: Environment) -> Record {
    let first = now();
    let said = |name: &str| environment.get(name).cloned();
    let backend = said("SESSION_BACKEND_ID").unwrap_or_else(|| "none".to_owned());
    let key = said("SESSION_BACKEND_KEY").unwrap_or_default();
    let lock = lock(&key);
    let beats = Beats {
        fence: said("SESSION_BACKEND_FENCING_TOKEN").and_then(|fence| fence.parse().ok()).unwrap_or(0),
        first,
        last: first,
        count: 1,
        beside: u64::from(lock.is_none()),
        key,
        backend,
        ..Beats::default()
    };
    let directory = directory("BEATS", "/jcx");
    let path = format!("{directory}/{}", beats.file_name());
    let file = File::create_new(path).expect("the directory can be written to");
    beats.create(&file).expect("the file can be written to");
    Record { file, beats, environment, _lock: lock, posted: HashSet::new() }
}

fn directory(variable: &str, usual: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| usual.to_owned())
}

/// None where another process has it.
fn lock(key: &str) -> Option<File> {
    let path = format!("{}/{key}", directory("LOCKS", "/jcx-keys"));
    let mut options = File::options();
    let file = options.create(true).append(true).open(path).expect("the directory can be written to");
    match file.try_lock() {
        Ok(()) => Some(file),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(error)) => panic!("a lock: {error}"),
    }
}

fn beat(change: impl Fn(&mut Beats, u64)) {
    for Record { file, beats, .. } in records().iter_mut() {
        let now = now();
        change(beats, now);
        beats.beat(file, now).expect("the file can be written to");
    }
}

fn leave(code: i32) -> ! {
    beat(|beats, now| beats.left = now);
    std::process::exit(code);
}

/// Of the session, where there is one.
fn setting(name: &str) -> Option<String> {
    let of_session = records().first().and_then(|record| record.environment.get(name).cloned());
    of_session.or_else(|| std::env::var(name).ok()).filter(|value| !value.is_empty())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if std::env::var_os("SESSION_BACKEND_ID").is_some() {
        records().push(open(std::env::vars().collect()));
    }
    let run = setting("RUN_MS").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    tokio::select! {
        () = heart() => {}
        () = stop_signal() => {}
        () = async { tokio::time::sleep(run.unwrap_or_default()).await }, if run.is_some() => {}
        () = serve(), if run.is_none() => {}
    }
    leave(0);
}

async fn heart() {
    let mut ticks = tokio::time::interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        beat(|_, _| {});
    }
}

async fn stop_signal() {
    let mut terminate = signal(SignalKind::terminate()).expect("signals work");
    terminate.recv().await;
    beat(|beats, now| beats.told_to_stop = now);
    if setting("DEAF").is_some() {
        std::future::pending::<()>().await;
    }
    let delay = setting("STOP_DELAY_MS").and_then(|delay| delay.parse().ok()).unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(delay)).await;
}

async fn serve() {
    let port = setting("PORT").unwrap_or_else(|| "8080".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("0.0.0.0:{port}")).await.expect("the port is free");
    let routes = Router::new()
        .route("/", get(async || who()))
        .route("/claim", post(claim))
        .route("/post", post(posted))
        .route("/ws", any(async |upgrade: WebSocketUpgrade| -> Response { upgrade.on_upgrade(echo) }));
    axum::serve(listener, routes).await.expect("serving does not fail");
}

/// A hot application's session. The same one again is no news.
async fn claim(Json(told): Json<Value>) {
    let mut environment: Environment = serde_json::from_value(told["env"].clone()).unwrap_or_default();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for (name, value) in [
        ("SESSION_BACKEND_ID", &told["backend_id"]),
        ("SESSION_BACKEND_FENCING_TOKEN", &told["fencing_token"]),
        ("SESSION_BACKEND_KEY", &told["key"]["name"]),
    ] {
        environment.insert(name.to_owned(), text(value));
    }
    let mut records = records();
    let same = |record: &Record| {
        record.beats.backend == environment["SESSION_BACKEND_ID"]
            && record.beats.fence.to_string() == environment["SESSION_BACKEND_FENCING_TOKEN"]
    };
    if !records.iter().any(same) {
        records.push(open(environment));
    }
}

/// Carries a request out, which is to be written down, and says how often that makes.
async fn posted(headers: HeaderMap, body: String) -> String {
    let name = headers.get("x-name").and_then(|name| name.to_str().ok()).unwrap_or_default().to_owned();
    let mut times = 0;
    if let Some(record) = records().last_mut() {
        times = if record.posted.insert(name) { 1 } else { 2 };
        record.beats.posts += 1;
        record.beats.again += times - 1;
        let now = now();
        record.beats.beat(&record.file, now).expect("the file can be written to");
    }
    let mut said: Value = serde_json::from_str(&who()).unwrap_or_default();
    (said["times"], said["body"]) = (times.into(), body.into());
    said.to_string()
}

fn who() -> String {
    let records = records();
    let Some(record) = records.last() else { return json!({ "key": null }).to_string() };
    let Beats { key, backend, fence, first, .. } = &record.beats;
    json!({ "key": key, "backend": backend, "fence": fence, "process": first }).to_string()
}

async fn echo(mut socket: WebSocket) {
    if socket.send(Message::text(who())).await.is_err() {
        return;
    }
    while let Some(Ok(message)) = socket.recv().await {
        match message {
            Message::Text(text) if text == "exit" => leave(0),
            Message::Text(_) | Message::Binary(_) => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}
