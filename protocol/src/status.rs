//! The words for where a backend is and why it ended: Plane's eight states and six reasons, and ours beside them.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::time::UnixMicros;

mod reason;

pub use reason::{EndReason, EndedBy, TerminationReason};

/// Ordered: a backend only moves to the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum TerminationKind {
    Soft,
    Hard,
}

/// How a backend ended.
///
/// Sent and stored, `crashed` is written as `exited`: versions before that reason drop a message with
/// a word that they do not know. A reader tells the two apart by the exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct End {
    #[serde(serialize_with = "write_reason")]
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

/// An end as it was written.
#[derive(Deserialize)]
struct Written {
    reason: EndReason,
    #[serde(default)]
    kind: Option<TerminationKind>,
    #[serde(default)]
    exit_code: Option<i32>,
    #[serde(default)]
    oom_killed: bool,
    #[serde(default)]
    message: String,
    #[serde(default)]
    output: String,
}

impl From<Written> for End {
    fn from(written: Written) -> Self {
        let Written { reason, kind, exit_code, oom_killed, message, output } = written;
        let reason = if reason == EndReason::Exited { EndReason::of_exit(exit_code) } else { reason };
        Self { reason, kind, exit_code, oom_killed, message, output }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn write_reason<S: Serializer>(reason: &EndReason, to: S) -> Result<S::Ok, S::Error> {
    let known = if *reason == EndReason::Crashed { EndReason::Exited } else { *reason };
    known.serialize(to)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn end(reason: EndReason, exit_code: Option<i32>) -> End {
        End {
            reason,
            kind: None,
            exit_code,
            oom_killed: false,
            message: String::new(),
            output: String::new(),
        }
    }

    #[test]
    fn a_reason_is_one_word_everywhere() {
        for reason in EndReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            let read: EndReason = serde_json::from_value(json!(reason.as_str())).unwrap();
            assert_eq!(read, reason);
        }
    }

    #[test]
    fn a_newer_reason_does_not_make_a_message_unreadable() {
        let read: End = serde_json::from_value(json!({ "reason": "abducted", "exit_code": 7 })).unwrap();
        assert_eq!(read, end(EndReason::Internal, Some(7)));
    }

    /// Versions before `crashed` read `exited`, and write it of both.
    #[test]
    fn a_crash_is_written_in_a_word_that_older_versions_know() {
        for (told, code, written) in [
            (EndReason::Crashed, Some(139), "exited"),
            (EndReason::Crashed, Some(1), "exited"),
            (EndReason::Exited, Some(0), "exited"),
            (EndReason::Exited, None, "exited"),
            (EndReason::External, Some(143), "external"),
            (EndReason::OutOfMemory, Some(137), "out_of_memory"),
        ] {
            let json = serde_json::to_value(end(told, code)).unwrap();
            assert_eq!(json["reason"], written);
            assert_eq!(serde_json::from_value::<End>(json).unwrap(), end(told, code));
        }
    }
}
