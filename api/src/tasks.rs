//! What each background task of a controller did last, in `GET /ctrl/status`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    pub name: String,
    /// Later than `last_finished` while a run is under way.
    pub last_started: Option<i64>,
    pub last_finished: Option<i64>,
    pub last_result: Option<LastResult>,
    /// Of the run that started last.
    pub woken_by: Option<WokenBy>,
    /// Runs that have finished, failed ones included.
    pub runs: u64,
    pub failures: u64,
}

/// What began a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WokenBy {
    /// The controller's start.
    Start,
    /// The end of the task's period.
    Interval,
    /// Another part of this controller: "look now".
    Nudge,
    /// Requests that wait for the task.
    Queue,
    /// A newer controller says a word that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What a run did, or why it failed, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LastResult {
    Ok(String),
    Error(String),
}
