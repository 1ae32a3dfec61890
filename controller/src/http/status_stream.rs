//! `GET /pub/b/{id}/status-stream`: a backend's statuses as server-sent events. History first, then live, pushed by the
//! drone that owns it; where the drone is away, Postgres is asked slowly until it is back.
//!
//! Written for a consumer that splits at LF, knows `data:` and `id:`, and reconnects at once when the stream ends: so
//! the stream stays open after the end, with a comment now and then.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use jetway_api::ErrorBody;
use jetway_api::status::BackendStatus;
use jetway_protocol::drone_api::Followed;
use jetway_protocol::error::Code;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::{Status, StatusEntry};
use jetway_service::backoff::Backoff;
use tokio::sync::mpsc;

use super::backend_status::{Known, known};
use super::extract::ApiPath;
use crate::app::App;
use crate::db::drones::DroneRef;
use crate::error::{ApiError, ApiResult};

const COMMENT_PERIOD: Duration = Duration::from_secs(15);
/// Between two looks at Postgres while the drone does not answer, at first and later.
const POLL: Duration = Duration::from_secs(2);
const POLL_MAX: Duration = COMMENT_PERIOD;
/// Entries that wait for a slow client; there are only eight statuses.
const QUEUE: usize = 16;
const BUSY_RETRY_MS: u64 = 5000;

/// All entries so far, then live ones. It stays open after the end.
#[utoipa::path(
    get, path = "/b/{id}/status-stream", tag = "status",
    operation_id = "backend_status_stream",
    params(
        ("id" = String, Path, description = "A backend's id"),
        ("Last-Event-ID" = Option<Status>, Header, description = "Leaves out this status and those before it"),
    ),
    responses(
        (status = 200, description = "Server-sent events: `data` is an entry as JSON, `id` its status", body = BackendStatus,
            content_type = "text/event-stream"),
        (status = 404, description = "`backend_not_found`: unknown, or ended more than a day ago", body = ErrorBody),
        (status = 503, description = "`busy`: too many streams are open; `database`", body = ErrorBody),
    ),
)]
pub async fn status_stream(
    State(app): State<App>,
    ApiPath(text): ApiPath<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let Ok(permit) = app.streams.statuses.clone().try_acquire_owned() else {
        return Err(ApiError::new(Code::Busy, "too many streams are open").retry_after_ms(BUSY_RETRY_MS));
    };
    let known = known(&app, &text).await?;
    let seen: Option<Status> =
        headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.trim().parse().ok());

    let (sender, receiver) = mpsc::channel(QUEUE);
    let (id, drone) = (known.details.summary.id.clone(), known.details.drone.clone());
    let live = Live { app: app.clone(), id, drone, sent: seen, sender };
    app.lifecycle.spawn_until_stopped(async move {
        let _held_as_long_as_the_stream = permit;
        // `None` says that the client has gone.
        let _client_gone: Option<()> = live.run(known).await;
    });
    let bytes = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(bytes), receiver))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(bytes)).into_response())
}

/// One client's stream. Every step is `None` once the client has gone.
struct Live {
    app: App,
    id: BackendId,
    drone: DroneRef,
    /// The last status that the client has.
    sent: Option<Status>,
    sender: mpsc::Sender<Bytes>,
}

impl Live {
    async fn run(mut self, first: Known) -> Option<()> {
        // The first bytes make every proxy on the way flush the head.
        self.comment().await?;
        let mut ended = self.known(first).await?;
        let mut backoff = Backoff::new(POLL, POLL_MAX);
        while !ended {
            ended = self.follow(&mut backoff).await?;
            if !ended {
                self.quiet(backoff.next_wait()).await?;
                // Whatever is between us keeps the line open, although there is nothing to say.
                self.comment().await?;
                let Ok(known) = known(&self.app, self.id.as_str()).await else { continue };
                ended = self.known(known).await?;
            }
        }
        // Held open: a client that reconnects at once would spin.
        loop {
            self.quiet(COMMENT_PERIOD).await?;
            self.comment().await?;
        }
    }

    /// What the drone says, until the end (true) or until the line breaks. One that speaks is soon asked again.
    async fn follow(&mut self, backoff: &mut Backoff) -> Option<bool> {
        let Ok(mut live) = self.app.drones.follow(&self.drone, &self.id).await else { return Some(false) };
        loop {
            let next = tokio::select! {
                () = self.sender.closed() => return None,
                next = live.next() => next,
                () = tokio::time::sleep(COMMENT_PERIOD) => {
                    self.comment().await?;
                    continue;
                }
            };
            let Some(Some(Followed { entry, hint })) = next else { return Some(false) };
            backoff.reset();
            let ended = entry.status == Status::Terminated;
            match hint {
                Some(_) if self.sent.is_none_or(|sent| sent <= entry.status) => {
                    let shown = BackendStatus { hint, ..BackendStatus::from(&entry) };
                    self.sender.send(event(&shown)).await.ok()?;
                    self.sent = Some(entry.status);
                }
                _ => self.entries(&[entry], None).await?,
            }
            if ended {
                return Some(true);
            }
        }
    }

    /// Sends it; true where there is nothing more to come. Where the drone is away each entry says
    /// so.
    async fn known(&mut self, known: Known) -> Option<bool> {
        self.drone = known.details.drone;
        self.entries(&known.entries, known.drone_answered.filter(|answered| !answered)).await?;
        Some(known.entries.last().is_some_and(|last| last.status == Status::Terminated))
    }

    /// Sends what the client does not have yet.
    async fn entries(&mut self, entries: &[StatusEntry], drone_answered: Option<bool>) -> Option<()> {
        for entry in entries {
            if self.sent.is_none_or(|sent| sent < entry.status) {
                let shown = BackendStatus { drone_answered, ..entry.into() };
                self.sender.send(event(&shown)).await.ok()?;
                self.sent = Some(entry.status);
            }
        }
        Some(())
    }

    async fn comment(&self) -> Option<()> {
        self.sender.send(Bytes::from_static(b":\n\n")).await.ok()
    }

    /// Waits, but not for a client that has gone.
    async fn quiet(&self, wait: Duration) -> Option<()> {
        tokio::select! {
            () = self.sender.closed() => None,
            () = tokio::time::sleep(wait) => Some(()),
        }
    }
}

fn event(entry: &BackendStatus) -> Bytes {
    let json = serde_json::to_string(entry).unwrap_or_default();
    Bytes::from(format!("data: {json}\nid: {}\n\n", entry.status))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use jetway_protocol::status::Status;

    use crate::testing::{Harness, Mode, keyed, request};

    /// Reads until the text so far is as wanted.
    async fn read(body: &mut axum::body::BodyDataStream, wanted: impl Fn(&str) -> bool) -> String {
        let mut text = String::new();
        while !wanted(&text) {
            let next = tokio::time::timeout(std::time::Duration::from_secs(10), body.next()).await;
            text.push_str(std::str::from_utf8(&next.expect(&text).expect("it stays open").unwrap()).unwrap());
        }
        text
    }

    #[tokio::test]
    async fn history_then_live_then_open_and_resumed_by_the_last_id() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let answer = harness.connect(&keyed("k")).await;
        let id = answer.json()["backend_id"].as_str().unwrap().parse().unwrap();
        let path = format!("/pub/b/{id}/status-stream");
        let response = harness.open(request("GET", &path, "")).await;
        assert_eq!(
            (response.status(), response.headers()["content-type"].as_bytes()),
            (http::StatusCode::OK, &b"text/event-stream"[..])
        );
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        let mut body = response.into_body().into_data_stream();
        let first = read(&mut body, |text| text.contains("id: scheduled\n\n")).await;
        assert!(first.starts_with(":\n\ndata: {\"status\":\"scheduled\",\"time\":"), "{first}");
        assert!(!first.contains('\r'));

        drone.advance(&id, Status::Ready);
        read(&mut body, |text| text.contains("id: ready\n\n")).await;
        drone.advance(&id, Status::Terminated);
        let last = read(&mut body, |text| text.contains("id: terminated\n\n")).await;
        assert!(
            last.contains(r#""termination_reason":"external","termination_kind":"soft","exit_error":false"#),
            "{last}"
        );
        let more = tokio::time::timeout(std::time::Duration::from_millis(100), body.next()).await;
        assert!(more.is_err(), "held open after the end");

        harness.report(&drone).await;
        let mut resumed = request("GET", &path, "");
        resumed.headers_mut().insert("last-event-id", " ready".parse().unwrap());
        let mut body = harness.open(resumed).await.into_body().into_data_stream();
        let rest = read(&mut body, |text| text.contains("\nid: ")).await;
        assert!(rest.contains("id: terminated") && !rest.contains("id: ready"), "{rest}");
    }

    #[tokio::test]
    async fn the_first_entries_are_as_new_as_any_status() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let id = harness.connect(&keyed("k")).await.json()["backend_id"].as_str().unwrap().to_owned();
        let path = format!("/pub/b/{id}/status-stream");
        let all = |text: &str| text.matches("data: ").count() == 2;
        drone.advance(&id.parse().unwrap(), Status::Ready);
        let mut body = harness.open(request("GET", &path, "")).await.into_body().into_data_stream();
        assert!(!read(&mut body, all).await.contains("drone_answered"));
        // Its end is no longer followed, and not in Postgres yet.
        drone.bury(&id.parse().unwrap());
        let mut body = harness.open(request("GET", &path, "")).await.into_body().into_data_stream();
        let buried = read(&mut body, all).await;
        assert!(buried.contains("id: terminated") && !buried.contains("drone_answered"), "{buried}");
    }

    #[tokio::test]
    async fn while_the_drone_is_away_comments_keep_the_stream_alive() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let answer = harness.connect(&keyed("k")).await;
        let id = answer.json()["backend_id"].as_str().unwrap().to_owned();
        drone.set_mode(Mode::Forgetful);
        let response = harness.open(request("GET", &format!("/pub/b/{id}/status-stream"), "")).await;
        let mut body = response.into_body().into_data_stream();
        let text = read(&mut body, |text| text.matches(":\n\n").count() > 1).await;
        assert!(text.contains(r#""drone_answered":false"#), "{text}");
        assert!(drone.calls("FOLLOW") > 0);
    }

    #[tokio::test]
    async fn an_unknown_backend_is_a_404() {
        let harness = Harness::new().await;
        for path in ["/pub/b/nobody/status-stream", "/pub/b/No_Body/status", "/pub/b/nobody/status"] {
            assert_eq!(harness.get(path).await.outcome(), (404, "backend_not_found".into()), "{path}");
        }
    }
}
