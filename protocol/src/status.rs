//! The words for where a backend is and why it ended: Plane's eight states and six reasons, and ours beside them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::UnixMicros;

/// Ordered: a backend only moves to the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Scheduled,
    Loading,
    Starting,
    Waiting,
    Ready,
    Terminating,
    HardTerminating,
    Terminated,
}

impl Status {
    pub const ALL: [Status; 8] = [
        Status::Scheduled,
        Status::Loading,
        Status::Starting,
        Status::Waiting,
        Status::Ready,
        Status::Terminating,
        Status::HardTerminating,
        Status::Terminated,
    ];

    /// Plane's integer, also the rank in Postgres.
    pub fn rank(self) -> i16 {
        match self {
            Status::Scheduled => 10,
            Status::Loading => 20,
            Status::Starting => 30,
            Status::Waiting => 40,
            Status::Ready => 50,
            Status::Terminating => 60,
            Status::HardTerminating => 65,
            Status::Terminated => 70,
        }
    }

    pub fn from_rank(rank: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.rank() == rank)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Scheduled => "scheduled",
            Status::Loading => "loading",
            Status::Starting => "starting",
            Status::Waiting => "waiting",
            Status::Ready => "ready",
            Status::Terminating => "terminating",
            Status::HardTerminating => "hard-terminating",
            Status::Terminated => "terminated",
        }
    }

    /// Whether a stop has begun or ended: a connect must not hand out its URL any more.
    pub fn is_ending(self) -> bool {
        self >= Status::Terminating
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Status {
    type Err = UnknownStatus;
    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(UnknownStatus)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one of the eight states")]
pub struct UnknownStatus;

/// Plane's closed enum; a client of Plane's knows no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TerminationReason {
    Swept,
    External,
    KeyExpired,
    Lost,
    StartupTimeout,
    InternalError,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TerminationKind {
    Soft,
    Hard,
}

/// Why a backend ended, in as many words as someone could act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The application exited by itself after it was ready.
    Exited,
    /// `max_idle_seconds` ran out: from the last close, or, if nobody ever came, from `first_connection_seconds` after
    /// ready or the last connect.
    Idle,
    /// `lifetime_limit_seconds` ran out.
    Lifetime,
    /// Somebody asked for it: terminate, drain, `jetway stop`.
    External,
    /// The kernel killed it for memory.
    OutOfMemory,
    ImageNotFound,
    PullFailed,
    CreateFailed,
    /// The application could not be executed, or exited before it was ready.
    ExitedBeforeReady,
    /// It did not listen within `start_timeout_seconds`.
    StartTimeout,
    /// It listened, but not where it can be reached (another port, or 127.0.0.1 only).
    ListeningElsewhere,
    /// The drone, host or container went away without a report.
    Lost,
    /// The lease ran out.
    LeaseExpired,
    /// The drone refused it for good; nothing was started.
    Refused,
    /// A fault of ours.
    Internal,
}

impl EndReason {
    /// The nearest of Plane's six; `None` is Plane's way to say "exited by itself".
    pub fn termination_reason(self) -> Option<TerminationReason> {
        match self {
            EndReason::Exited => None,
            EndReason::Idle | EndReason::Lifetime => Some(TerminationReason::Swept),
            EndReason::External => Some(TerminationReason::External),
            EndReason::OutOfMemory => None,
            EndReason::ImageNotFound
            | EndReason::PullFailed
            | EndReason::CreateFailed
            | EndReason::ExitedBeforeReady
            | EndReason::Refused
            | EndReason::Internal => Some(TerminationReason::InternalError),
            EndReason::StartTimeout | EndReason::ListeningElsewhere => {
                Some(TerminationReason::StartupTimeout)
            }
            EndReason::Lost => Some(TerminationReason::Lost),
            EndReason::LeaseExpired => Some(TerminationReason::KeyExpired),
        }
    }
}

/// How a backend ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub reason: EndReason,
    /// Which kind of stop was used; absent when none was needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<TerminationKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default)]
    pub oom_killed: bool,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The last output of a start that failed, at most [`OUTPUT_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// Bytes of output kept of a failed start.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024;

/// One step of a backend's life, as the drone reports it and the status stream replays it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusEntry {
    pub status: Status,
    pub at: UnixMicros,
    /// From `terminating` on: why and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}
