//! `GET /pub/b/{id}/status` and its stream: where a backend is, in Plane's words with ours beside
//! them.

use jetway_protocol::hint::Hint;
use jetway_protocol::status::{EndReason, Status, StatusEntry, TerminationKind, TerminationReason};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One step, as the status and the stream show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendStatus {
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_reason: Option<TerminationReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_kind: Option<TerminationKind>,
    /// Only once terminated: whether it left with a code other than 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_error: Option<bool>,
    /// Milliseconds since the epoch.
    pub time: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_killed: Option<bool>,
    /// The reason why its start is held up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Hint>,
    /// Only while it lives. False: the entry is Postgres', and may be old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drone_answered: Option<bool>,
}

impl From<&StatusEntry> for BackendStatus {
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
            hint: None,
            drone_answered: None,
        }
    }
}
