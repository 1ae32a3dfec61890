//! `GET /ctrl/backends/{id}/logs?follow&tail=N`: the container's output, streamed from its drone as it comes.

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use jetway_protocol::drone_api::RefusalCode;
use jetway_protocol::error::Code;
use serde::Deserialize;

use super::extract::{ApiPath, ApiQuery};
use super::status::history;
use crate::app::App;
use crate::drone::Failure;
use crate::error::{ApiError, ApiResult, shown};

const TAIL_MAX: u32 = 100_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// `follow`, `follow=true`, `follow=1`.
    follow: Option<String>,
    tail: Option<u32>,
}

pub async fn logs(
    State(app): State<App>,
    ApiPath(text): ApiPath<String>,
    ApiQuery(query): ApiQuery<LogsQuery>,
) -> ApiResult<Response> {
    let follow = match query.follow.as_deref() {
        None | Some("false" | "0") => false,
        Some("" | "true" | "1") => true,
        Some(other) => {
            return Err(ApiError::invalid(format!("follow is {}; it must be true or false", shown(other))));
        }
    };
    if query.tail.is_some_and(|tail| tail > TAIL_MAX) {
        return Err(ApiError::invalid(format!("tail must be at most {TAIL_MAX} lines")));
    }
    let Ok(permit) = app.log_streams.clone().try_acquire_owned() else {
        return Err(ApiError::new(Code::Busy, "too many streams are open").retry_after_ms(5000));
    };
    let (_, details) = history(&app, &text).await?;
    let text_plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    if let Some(end) = details.summary.end.filter(|_| details.summary.ended_at.is_some()) {
        // The container is gone; the last words of a failed start are kept.
        return Ok((text_plain, end.output).into_response());
    }
    let mut drone_query = format!("follow={follow}");
    if let Some(tail) = query.tail {
        drone_query.push_str(&format!("&tail={tail}"));
    }
    let (drone, id) = (&details.drone, &details.summary.id);
    let stream =
        app.drones.logs(drone, id, &drone_query).await.map_err(|error| match Failure::from(error) {
            Failure::Refused(RefusalCode::Ended | RefusalCode::Unknown, _) => {
                ApiError::new(Code::BackendNotFound, "the backend has no container, or none any more")
                    .about(id)
            }
            failure => {
                tracing::info!(backend = %id, drone = %drone.name, %failure, "logs");
                ApiError::new(Code::DroneUnreachable, format!("the drone {} does not answer", drone.name))
                    .about(id)
            }
        })?;
    let lifecycle = app.lifecycle.clone();
    let until_stopped = stream.take_until(async move { lifecycle.stopping().await }).map(move |bytes| {
        let _held_as_long_as_the_stream = &permit;
        bytes
    });
    Ok((text_plain, Body::from_stream(until_stopped)).into_response())
}
