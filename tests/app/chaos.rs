//! The application inside the sessions of the chaos run: it says who it is to whoever comes, echoes, and keeps a file of
//! heartbeats (`beats.rs`) in `/plane-data`, so that nobody can deny that it was alive.
//!
//! `BEATS`: another directory. `DEAF`: ignores SIGTERM. `STOP_DELAY_MS`: takes so long to leave after SIGTERM.
//! `RUN_MS`: leaves after so long (for the planted process, which serves nobody).

#[expect(dead_code, reason = "the checker reads what this writes")]
mod beats;

use std::fs::File;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::{any, get};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use beats::Beats;

const BEAT_EVERY: Duration = Duration::from_millis(10);

struct Record {
    file: File,
    beats: Beats,
}

static RECORD: LazyLock<Mutex<Record>> = LazyLock::new(|| Mutex::new(open()));

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the time into a structure of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Before anything else: what runs and has not said so would be invisible.
fn open() -> Record {
    let first = now();
    let backend = variable("SESSION_BACKEND_ID").unwrap_or_else(|| "none".to_owned());
    let directory = variable("BEATS").unwrap_or_else(|| "/plane-data".to_owned());
    let file =
        File::create_new(format!("{directory}/{backend}.{first}")).expect("the directory can be written to");
    let beats = Beats {
        fence: variable("SESSION_BACKEND_FENCING_TOKEN").and_then(|fence| fence.parse().ok()).unwrap_or(0),
        first,
        last: first,
        count: 1,
        gap_max: 0,
        told_to_stop: 0,
        left: 0,
        key: variable("SESSION_BACKEND_KEY").unwrap_or_default(),
        backend,
    };
    beats.create(&file).expect("the file can be written to");
    Record { file, beats }
}

fn beat(change: impl FnOnce(&mut Beats, u64)) {
    let mut record = RECORD.lock().unwrap_or_else(PoisonError::into_inner);
    let Record { file, beats } = &mut *record;
    let now = now();
    change(beats, now);
    beats.beat(file, now).expect("the file can be written to");
}

fn leave(code: i32) -> ! {
    beat(|beats, now| beats.left = now);
    std::process::exit(code);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    beat(|_, _| {});
    let run = variable("RUN_MS").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
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
    if variable("DEAF").is_some() {
        std::future::pending::<()>().await;
    }
    let delay = variable("STOP_DELAY_MS").and_then(|delay| delay.parse().ok()).unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(delay)).await;
}

async fn serve() {
    let port = variable("PORT").unwrap_or_else(|| "8080".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("0.0.0.0:{port}")).await.expect("the port is free");
    let routes = Router::new()
        .route("/", get(async || who()))
        .route("/ws", any(async |upgrade: WebSocketUpgrade| -> Response { upgrade.on_upgrade(echo) }));
    axum::serve(listener, routes).await.expect("serving does not fail");
}

fn who() -> String {
    let record = RECORD.lock().unwrap_or_else(PoisonError::into_inner);
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
