//! `GET /b/{id}/logs`: what the container printed, as plain bytes.

use axum::body::Body;
use axum::extract::Query;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use jetway_protocol::drone_api::RefusalCode;
use serde::Deserialize;

use super::refusal::{Id, No, Serving, live, no};
use crate::runtime::RuntimeError;

#[derive(Debug, Deserialize)]
pub struct Which {
    #[serde(default)]
    follow: bool,
    /// Lines from the end; all if absent.
    tail: Option<u32>,
}

pub async fn logs(
    Serving(agent): Serving,
    Id(id): Id,
    which: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, No> {
    let Query(which) = which.map_err(|error| no(RefusalCode::Invalid, error.body_text()))?;
    live(&agent, &id)?;
    let slot = agent.slots.iter().find(|entry| *entry.value() == id).map(|entry| *entry.key());
    let slot = slot.ok_or_else(|| no(RefusalCode::Unavailable, format!("{id} has no container yet")))?;
    let output = agent.runtime.logs(slot, which.tail, which.follow).await.map_err(|error| match error {
        RuntimeError::Absent => no(RefusalCode::Unavailable, format!("{id} has no container yet")),
        error => no(RefusalCode::Unavailable, error.to_string()),
    })?;
    let stopping = agent.lifecycle.token().clone().cancelled_owned();
    let body = Body::from_stream(output.take_until(Box::pin(stopping)));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}
