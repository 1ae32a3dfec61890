//! Why a backend ended: the word, the nearest of Plane's six, what ended it, and a sentence. All
//! that is said of a reason for its own sake is here.

use serde::{Deserialize, Serialize};

/// Plane's closed enum; a client of Plane's knows no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum TerminationReason {
    Swept,
    External,
    KeyExpired,
    Lost,
    StartupTimeout,
    InternalError,
}

/// Why a backend ended, in as many words as someone could act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The application exited by itself, with status 0, after it was ready.
    Exited,
    /// The same with another status, or by a signal.
    Crashed,
    /// `max_idle_seconds` ran out: from the last close, or, if nobody ever came, from
    /// `first_connection_seconds` after ready or the last connect.
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
    /// A fault of ours, or a reason that is newer than this version.
    #[serde(other)]
    Internal,
}

impl EndReason {
    pub const ALL: [EndReason; 16] = [
        EndReason::Exited,
        EndReason::Crashed,
        EndReason::Idle,
        EndReason::Lifetime,
        EndReason::External,
        EndReason::OutOfMemory,
        EndReason::ImageNotFound,
        EndReason::PullFailed,
        EndReason::CreateFailed,
        EndReason::ExitedBeforeReady,
        EndReason::StartTimeout,
        EndReason::ListeningElsewhere,
        EndReason::Lost,
        EndReason::LeaseExpired,
        EndReason::Refused,
        EndReason::Internal,
    ];

    /// The API's word for it, which clients also hear in a close frame.
    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::Exited => "exited",
            EndReason::Crashed => "crashed",
            EndReason::Idle => "idle",
            EndReason::Lifetime => "lifetime",
            EndReason::External => "external",
            EndReason::OutOfMemory => "out_of_memory",
            EndReason::ImageNotFound => "image_not_found",
            EndReason::PullFailed => "pull_failed",
            EndReason::CreateFailed => "create_failed",
            EndReason::ExitedBeforeReady => "exited_before_ready",
            EndReason::StartTimeout => "start_timeout",
            EndReason::ListeningElsewhere => "listening_elsewhere",
            EndReason::Lost => "lost",
            EndReason::LeaseExpired => "lease_expired",
            EndReason::Refused => "refused",
            EndReason::Internal => "internal",
        }
    }

    /// Of an application that ended by itself after it was ready. An engine that does not know the
    /// status gives none.
    pub fn of_exit(code: Option<i32>) -> Self {
        match code {
            Some(0) | None => EndReason::Exited,
            Some(_) => EndReason::Crashed,
        }
    }

    /// The nearest of Plane's six; `None` is Plane's way to say "exited by itself".
    pub fn termination_reason(self) -> Option<TerminationReason> {
        match self {
            EndReason::Exited | EndReason::Crashed => None,
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

    pub fn ended_by(self) -> EndedBy {
        match self {
            EndReason::Exited | EndReason::Crashed | EndReason::OutOfMemory => EndedBy::Application,
            EndReason::External => EndedBy::Request,
            EndReason::Idle | EndReason::Lifetime | EndReason::LeaseExpired => EndedBy::Drone,
            EndReason::ImageNotFound
            | EndReason::PullFailed
            | EndReason::CreateFailed
            | EndReason::ExitedBeforeReady
            | EndReason::StartTimeout
            | EndReason::ListeningElsewhere
            | EndReason::Refused => EndedBy::Start,
            EndReason::Lost | EndReason::Internal => EndedBy::Fault,
        }
    }

    /// A stop for this reason in one sentence; empty where the sentence needs more than the reason.
    pub fn sentence(self) -> &'static str {
        match self {
            EndReason::Idle => "nobody used it any more",
            EndReason::Lifetime => "its lifetime was over",
            EndReason::External => "somebody stopped it",
            EndReason::LeaseExpired => "its drone could not renew its lease",
            EndReason::Exited
            | EndReason::Crashed
            | EndReason::OutOfMemory
            | EndReason::ImageNotFound
            | EndReason::PullFailed
            | EndReason::CreateFailed
            | EndReason::ExitedBeforeReady
            | EndReason::StartTimeout
            | EndReason::ListeningElsewhere
            | EndReason::Lost
            | EndReason::Refused
            | EndReason::Internal => "",
        }
    }
}

/// What ended a backend, for code that need not tell each reason from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The application itself, or the kernel that killed it.
    Application,
    /// A caller of the API.
    Request,
    /// A rule that the drone keeps. An application that has exited before keeps its own reason.
    Drone,
    /// A start that failed.
    Start,
    /// A loss, or a fault of Jetway's.
    Fault,
}
