//! `jetway stop --all`: every live session, or every one of a drone, is asked to stop; then their ends are waited for. For
//! the moment before an installation is taken down: no container is left that nobody looks after.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jetway_api::backends::Backends;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use super::api::{ApiArguments, encode};
use super::output;
use super::stop::StopArguments;

/// Calls under way at once.
const AT_ONCE: usize = 16;
/// Rows of a page of the list, as many as the API gives.
const PAGE: usize = 200;
/// Before a broken status stream is opened again.
const AGAIN: Duration = Duration::from_millis(200);
/// Of one line of a status stream; ours are far shorter.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Ids that the summary names.
const NAMED_MAX: usize = 5;

pub async fn run(arguments: &StopArguments) -> anyhow::Result<ExitCode> {
    if let Some(drone) = &arguments.drone {
        arguments.api.drone(drone).await?;
    }
    let until = Instant::now() + Duration::from_secs(arguments.wait_seconds);
    let mut ended = BTreeSet::new();
    let mut asked = BTreeSet::new();
    // Again for those that were started meanwhile, until there are none.
    let left = loop {
        let live = live(arguments).await?;
        let left: BTreeSet<_> = live.difference(&ended).cloned().collect();
        let new: Vec<_> = left.difference(&asked).cloned().collect();
        if new.is_empty() || Instant::now() >= until {
            break left;
        }
        ask_all(arguments, &new).await;
        asked.extend(new.iter().cloned());
        ended.extend(those_that_end(&arguments.api, new, until).await);
    };
    tell(arguments, &ended, &left);
    Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn live(arguments: &StopArguments) -> anyhow::Result<BTreeSet<String>> {
    let mut first = format!("/ctrl/backends?state=live&limit={PAGE}");
    if let Some(drone) = &arguments.drone {
        first.push_str(&format!("&drone={}", encode(drone)));
    }
    let mut ids = BTreeSet::new();
    let mut path = first.clone();
    loop {
        let Backends { backends, next_cursor } = arguments.api.get(&path).await?.known;
        ids.extend(backends.into_iter().map(|backend| backend.backend_id.into()));
        let Some(cursor) = next_cursor else { return Ok(ids) };
        path = format!("{first}&cursor={}", encode(&cursor));
    }
}

async fn ask_all(arguments: &StopArguments, ids: &[String]) {
    let asking = stream::iter(ids).map(async |id| {
        if let Err(error) = arguments.ask(id).await {
            // It may have ended by itself; if not, it is among those that are left.
            eprintln!("{id}: {error:#}");
        }
    });
    asking.buffer_unordered(AT_ONCE).collect::<()>().await;
}

async fn those_that_end(api: &ApiArguments, ids: Vec<String>, until: Instant) -> Vec<String> {
    let waiting = stream::iter(ids).map(async |id| ends(api, &id, until).await.then_some(id));
    waiting.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// Whether it ends in time, as its status stream tells. A stream that breaks, with its controller, is opened again.
async fn ends(api: &ApiArguments, id: &str, until: Instant) -> bool {
    let ended = async {
        while !follow_to_the_end(api, id).await {
            sleep(AGAIN).await;
        }
    };
    timeout_at(until, ended).await.is_ok()
}

async fn follow_to_the_end(api: &ApiArguments, id: &str) -> bool {
    let Ok(response) = api.stream(&format!("/pub/b/{}/status-stream", encode(id))).await else {
        return false;
    };
    let mut chunks = response.bytes_stream();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(Ok(chunk)) = chunks.next().await {
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if line == b"id: terminated\n" {
                return true;
            }
        }
        if rest.len() > LINE_BYTES_MAX {
            return false;
        }
    }
    false
}

fn tell(arguments: &StopArguments, ended: &BTreeSet<String>, left: &BTreeSet<String>) {
    if arguments.api.json {
        return output::json(&json!({ "stopped": ended, "left": left }));
    }
    output::line(&summary(ended.len(), left, arguments.wait_seconds));
}

fn summary(ended: usize, left: &BTreeSet<String>, seconds: u64) -> String {
    let sessions =
        |count: usize| if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") };
    if left.is_empty() {
        return if ended == 0 {
            "no sessions to stop".to_owned()
        } else {
            format!("stopped {}", sessions(ended))
        };
    }
    let named: Vec<_> = left.iter().take(NAMED_MAX).map(|id| output::shown(id)).collect();
    let more = left.len() - named.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "stopped {}; {} did not end within {seconds} s: {}{more}",
        sessions(ended),
        sessions(left.len()),
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::Arc;

    use anyhow::bail;
    use axum::extract::{Path, Query, State};
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use clap::Parser;
    use serde_json::Value;

    use super::*;

    /// An API with sessions that end when they are asked to, except those whose id begins with `stuck`.
    #[derive(Clone, Default)]
    struct Sessions(Arc<Mutex<Shared>>);

    #[derive(Default)]
    struct Shared {
        live: Vec<(String, String)>,
        /// Starts when another one is stopped.
        late: Vec<(String, String)>,
        calls: usize,
        calls_max: usize,
    }

    #[derive(serde::Deserialize)]
    struct Asked {
        drone: Option<String>,
        cursor: Option<usize>,
    }

    async fn list(State(sessions): State<Sessions>, Query(asked): Query<Asked>) -> Json<Value> {
        let shared = sessions.0.lock();
        let from = asked.cursor.unwrap_or(0);
        let fits = |drone: &str| asked.drone.as_deref().is_none_or(|wanted| wanted == drone);
        let ids: Vec<_> = shared.live.iter().filter(|(_, drone)| fits(drone)).map(|(id, _)| id).collect();
        // Pages of two, so that there are several.
        let page: Vec<_> = ids.iter().skip(from).take(2).map(|id| backend(id)).collect();
        let next = (ids.len() > from + 2).then(|| (from + 2).to_string());
        Json(json!({ "backends": page, "next_cursor": next }))
    }

    fn backend(id: &str) -> Value {
        json!({
            "backend_id": id, "status": "ready", "drone": "one", "cluster": "c", "fencing_token": 1, "created_at": 0,
        })
    }

    fn drone(name: &str) -> Value {
        let capacity = json!({
            "cpus": 1.0, "memory_bytes": 1, "backends_max": 1, "mounts": false, "networks": [],
        });
        let load = json!({
            "backends": 0, "cpus_reserved": 0.0, "memory_reserved_bytes": 0, "images": [], "engine_ok": true,
        });
        json!({
            "name": name, "id": uuid::Uuid::nil(), "state": "ready", "cluster": "c", "pool": "", "version": "0",
            "advertise": "a", "draining": false, "capacity": capacity, "load": load,
            "lease": { "state": "none" }, "last_heartbeat_age_ms": 0,
        })
    }

    async fn stop(State(sessions): State<Sessions>, Path(id): Path<String>) -> Json<Value> {
        {
            let mut shared = sessions.0.lock();
            shared.calls += 1;
            shared.calls_max = shared.calls_max.max(shared.calls);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut shared = sessions.0.lock();
        shared.calls -= 1;
        if !id.starts_with("stuck") {
            shared.live.retain(|(live, _)| *live != id);
        }
        let late = std::mem::take(&mut shared.late);
        shared.live.extend(late);
        Json(Value::Null)
    }

    async fn follow(State(sessions): State<Sessions>, Path(id): Path<String>) -> String {
        let live = sessions.0.lock().live.iter().any(|(live, _)| *live == id);
        let end = if live { "" } else { "data: {}\nid: terminated\n\n" };
        format!(":\n\ndata: {{}}\nid: ready\n\n{end}")
    }

    async fn stopped(sessions: &Sessions, flags: &[&str]) -> anyhow::Result<ExitCode> {
        let router = Router::new()
            .route("/ctrl/backends", get(list))
            .route("/ctrl/drones", get(async || Json(json!({ "drones": [drone("one")] }))))
            .route("/ctrl/b/{id}/soft-terminate", post(stop))
            .route("/pub/b/{id}/status-stream", get(follow))
            .with_state(sessions.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let words = ["jetway", "stop", "--all", "--api-url", &url].into_iter().chain(flags.iter().copied());
        let arguments = crate::cli::Arguments::try_parse_from(words)?;
        tokio::select! {
            served = axum::serve(listener, router) => bail!("{served:?}"),
            outcome = crate::cli::run(arguments) => outcome,
        }
    }

    fn sessions(ids: impl IntoIterator<Item = (String, &'static str)>) -> Sessions {
        let live = ids.into_iter().map(|(id, drone)| (id, drone.to_owned())).collect();
        Sessions(Arc::new(Mutex::new(Shared { live, ..Shared::default() })))
    }

    fn left(sessions: &Sessions) -> Vec<String> {
        sessions.0.lock().live.iter().map(|(id, _)| id.clone()).collect()
    }

    fn is(code: ExitCode, expect: ExitCode) -> bool {
        format!("{code:?}") == format!("{expect:?}")
    }

    #[tokio::test]
    async fn all_are_stopped_a_few_at_a_time_also_those_that_start_meanwhile() {
        let sessions = sessions((0..41).map(|n| (format!("s{n}"), "one")));
        sessions.0.lock().late = vec![("late".to_owned(), "one".to_owned())];
        assert!(is(stopped(&sessions, &[]).await.unwrap(), ExitCode::SUCCESS));
        assert_eq!(left(&sessions), [""; 0]);
        let calls_max = sessions.0.lock().calls_max;
        assert!((2..=16).contains(&calls_max), "{calls_max}");
        assert!(is(stopped(&sessions, &["--json"]).await.unwrap(), ExitCode::SUCCESS), "none is fine");
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_a_failure() {
        let sessions = sessions([("stuck".to_owned(), "one"), ("good".to_owned(), "one")]);
        assert!(is(stopped(&sessions, &["--wait-seconds", "1"]).await.unwrap(), ExitCode::FAILURE));
        assert_eq!(left(&sessions), ["stuck"]);
    }

    #[tokio::test]
    async fn of_one_drone_only_and_it_must_exist() {
        let sessions = sessions([("here".to_owned(), "one"), ("there".to_owned(), "two")]);
        let unknown = stopped(&sessions, &["--drone", "nobody"]).await.unwrap_err();
        assert!(unknown.to_string().contains("no drone is called"), "{unknown}");
        assert!(is(stopped(&sessions, &["--drone", "one"]).await.unwrap(), ExitCode::SUCCESS));
        assert_eq!(left(&sessions), ["there"]);
    }

    #[test]
    fn the_summary_counts_and_names() {
        let left = |n: usize| (0..n).map(|n| format!("s{n}")).collect::<BTreeSet<_>>();
        assert_eq!(summary(0, &left(0), 60), "no sessions to stop");
        assert_eq!(summary(1, &left(0), 60), "stopped 1 session");
        assert_eq!(summary(3, &left(1), 60), "stopped 3 sessions; 1 session did not end within 60 s: s0");
        assert!(summary(0, &left(7), 9).ends_with("s3, s4 and 2 more"));
    }
}
