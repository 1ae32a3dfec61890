//! `GET /pub/b/{id}/status`: where a backend is, in Plane's words with ours beside them.

use axum::Json;
use axum::extract::State;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::{End, EndReason, Status, StatusEntry, TerminationKind, TerminationReason};
use serde::Serialize;

use super::extract::ApiPath;
use crate::app::App;
use crate::db::{events, list};
use crate::error::{ApiError, ApiResult};

/// One step, as the status and the stream show it. Times are milliseconds since the epoch.
#[derive(Debug, Clone, Serialize)]
pub struct PublicEntry {
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_reason: Option<TerminationReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_kind: Option<TerminationKind>,
    /// Only once terminated: whether it left with a code other than 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_error: Option<bool>,
    pub time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_killed: Option<bool>,
}

impl From<&StatusEntry> for PublicEntry {
    fn from(entry: &StatusEntry) -> Self {
        let end = entry.end.as_ref();
        let terminated = entry.status == Status::Terminated;
        Self {
            status: entry.status,
            termination_reason: end.and_then(|end| end.reason.termination_reason()),
            termination_kind: end.and_then(|end| end.kind),
            exit_error: terminated.then(|| end.and_then(|end| end.exit_code).is_some_and(|code| code != 0)),
            time: entry.at.millis(),
            end_reason: end.map(|end| end.reason),
            exit_code: end.and_then(|end| end.exit_code),
            oom_killed: end.filter(|end| end.oom_killed).map(|_| true),
        }
    }
}

pub async fn status(State(app): State<App>, ApiPath(text): ApiPath<String>) -> ApiResult<Json<PublicEntry>> {
    let (history, _) = history(&app, &text).await?;
    let last = history.last().ok_or_else(|| ApiError::unknown_backend(&text))?;
    Ok(Json(last.into()))
}

/// Everything that Postgres knows of a backend's way, `scheduled` included, and where it is followed further.
pub async fn history(app: &App, text: &str) -> ApiResult<(Vec<StatusEntry>, list::Details)> {
    let id: BackendId = text.parse().map_err(|_| ApiError::unknown_backend(text))?;
    let mut connection = app.db.acquire().await?;
    let details = list::details(&mut connection, &id).await?;
    let details = details.ok_or_else(|| ApiError::unknown_backend(text))?;
    let mut entries = events::of_backend(&mut connection, &id).await?;
    let summary = &details.summary;
    if entries.first().is_none_or(|first| first.status != Status::Scheduled) {
        entries.insert(0, StatusEntry { status: Status::Scheduled, at: summary.created_at, end: None });
    }
    // A row that was ended without a drone's event: refused, or gone.
    if let Some(at) = summary.ended_at
        && entries.last().is_none_or(|last| last.status != Status::Terminated)
    {
        let end: Option<End> = summary.end.clone();
        entries.push(StatusEntry { status: Status::Terminated, at, end });
    }
    Ok((entries, details))
}
