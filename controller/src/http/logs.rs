//! `GET /ctrl/backends/{id}/logs?follow&tail=N&timestamps`: the container's output, streamed from
//! its drone as it comes. Of a backend that has ended, the drone has kept the end of it for a day.

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use jetway_api::ErrorBody;
use jetway_api::backends::LogsQuery;
use jetway_protocol::drone_api::RefusalCode;
use jetway_protocol::error::Code;

use super::backend_status::history;
use super::extract::{ApiPath, ApiQuery};
use crate::app::App;
use crate::db::drones::DroneRef;
use crate::db::list::Summary;
use crate::drone::Failure;
use crate::error::{ApiError, ApiResult, shown};

const TAIL_MAX: u32 = 100_000;
const TEXT_PLAIN: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
const NOTHING_KEPT: &str = "nothing is kept of what this backend printed: it printed nothing, never ran, or ended more than a day ago";

/// The drone has nothing: the last words of a failed start are in Postgres.
fn with_the_end(summary: &Summary, drone: &DroneRef, failure: &Failure) -> ApiResult<Response> {
    let id = &summary.id;
    let end = summary.end.as_ref().filter(|_| summary.ended_at.is_some());
    if let Some(end) = end.filter(|end| !end.output.is_empty()) {
        return Ok((TEXT_PLAIN, end.output.clone()).into_response());
    }
    Err(match failure {
        Failure::Refused(RefusalCode::Ended | RefusalCode::Unknown, _) => {
            ApiError::new(Code::NoOutput, NOTHING_KEPT).about(id)
        }
        failure => {
            tracing::info!(backend = %id, drone = %drone.name, %failure, "logs");
            ApiError::new(Code::DroneUnreachable, format!("the drone {} does not answer", drone.name))
                .about(id)
        }
    })
}

fn flag(name: &str, value: Option<&str>) -> ApiResult<bool> {
    match value {
        None | Some("false" | "0") => Ok(false),
        Some("" | "true" | "1") => Ok(true),
        Some(other) => {
            Err(ApiError::invalid(format!("{name} is {}; it must be true or false", shown(other))))
        }
    }
}

/// What the container printed; after its end the last 64 KiB, for a day.
#[utoipa::path(
    get, path = "/backends/{id}/logs", tag = "sessions",
    operation_id = "backend_logs",
    params(("id" = String, Path, description = "A backend's id"), LogsQuery),
    responses(
        (status = 200, description = "The output as it comes", body = String, content_type = "text/plain"),
        (status = 404, description = "`backend_not_found`; `no_output`: nothing is kept of it", body = ErrorBody),
        (status = 422, description = "`invalid_request`: the message names the parameter", body = ErrorBody),
        (status = 502, description = "`drone_unreachable`", body = ErrorBody),
        (status = 503, description = "`busy`: too many streams are open; `database`", body = ErrorBody),
    ),
)]
pub async fn logs(
    State(app): State<App>,
    ApiPath(text): ApiPath<String>,
    ApiQuery(query): ApiQuery<LogsQuery>,
) -> ApiResult<Response> {
    let follow = flag("follow", query.follow.as_deref())?;
    let timestamps = flag("timestamps", query.timestamps.as_deref())?;
    if query.tail.is_some_and(|tail| tail > TAIL_MAX) {
        return Err(ApiError::invalid(format!("tail must be at most {TAIL_MAX} lines")));
    }
    let Ok(permit) = app.streams.logs.clone().try_acquire_owned() else {
        return Err(ApiError::new(Code::Busy, "too many streams are open").retry_after_ms(5000));
    };
    let (_, details) = history(&app, &text).await?;
    let mut drone_query = format!("follow={follow}&timestamps={timestamps}");
    if let Some(tail) = query.tail {
        drone_query.push_str(&format!("&tail={tail}"));
    }
    let (drone, id) = (&details.drone, &details.summary.id);
    let stream = match app.drones.logs(drone, id, &drone_query).await.map_err(Failure::from) {
        Ok(stream) => stream,
        Err(failure) => return with_the_end(&details.summary, drone, &failure),
    };
    let lifecycle = app.lifecycle.clone();
    let until_stopped = stream.take_until(async move { lifecycle.stopping().await }).map(move |bytes| {
        let _held_as_long_as_the_stream = &permit;
        bytes
    });
    Ok((TEXT_PLAIN, Body::from_stream(until_stopped)).into_response())
}

#[cfg(test)]
mod tests {
    use jetway_protocol::status::{End, EndReason, Status};

    use crate::testing::{Harness, keyed};

    async fn ended(harness: &Harness, output: &str, kept: Option<&str>) -> String {
        let drone = harness.drone("one").await;
        let answer = harness.connect(&keyed("k")).await;
        let id = answer.json()["backend_id"].as_str().unwrap().to_owned();
        let backend = id.parse().unwrap();
        let end = End {
            reason: EndReason::Exited,
            kind: None,
            exit_code: Some(1),
            oom_killed: false,
            message: String::new(),
            output: output.to_owned(),
        };
        drone.advance_with(&backend, Status::Terminated, Some(end));
        harness.report(&drone).await;
        drone.bury(&backend);
        kept.into_iter().for_each(|kept| drone.keep_output(kept));
        format!("/ctrl/backends/{id}/logs")
    }

    #[tokio::test]
    async fn of_an_ended_backend_its_drone_has_the_output() {
        let harness = Harness::new().await;
        let path = ended(&harness, "", Some("last words\n")).await;
        let answer = harness.get(&path).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "last words\n"));
    }

    #[tokio::test]
    async fn of_a_failed_start_postgres_has_the_end_of_it() {
        let harness = Harness::new().await;
        let path = ended(&harness, "no such file", None).await;
        assert_eq!(harness.get(&path).await.text(), "no such file");
    }

    #[tokio::test]
    async fn nothing_kept_is_said_and_is_no_success() {
        let harness = Harness::new().await;
        let path = ended(&harness, "", None).await;
        let answer = harness.get(&path).await;
        assert_eq!(answer.outcome(), (404, "no_output".into()));
        assert!(answer.text().contains("printed nothing"), "{}", answer.text());
        assert_eq!(harness.get(&format!("{path}?timestamps=perhaps")).await.outcome().0, 422);
    }
}
