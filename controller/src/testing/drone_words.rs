//! How the tests' drone can be told to behave, and what it says at an end.

use axum::http::StatusCode;
use jetway_protocol::drone_api::{PutBackend, RefusalCode};
use jetway_protocol::ids::{FencingToken, Term};
use jetway_protocol::status::{End, EndReason, TerminationKind};

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Usual,
    /// Refuses what is put.
    Refuse(RefusalCode),
    /// Refuses the next one that is put.
    RefuseOnce(RefusalCode),
    /// Takes what comes, and never answers.
    Silent,
    /// Knows nothing of what it has: as after the loss of its disk.
    Forgetful,
    /// Takes what is put, and can say nothing about it.
    Mute,
    /// Shows a backend once as it was; then it has ended.
    EndsAfterALook,
}

pub fn end(reason: EndReason) -> End {
    End {
        reason,
        kind: Some(TerminationKind::Soft),
        exit_code: Some(0),
        oom_killed: false,
        message: String::new(),
        output: String::new(),
    }
}

/// The status with which a real drone says it.
pub fn status_of(code: RefusalCode) -> StatusCode {
    match code {
        RefusalCode::Ended => StatusCode::GONE,
        RefusalCode::Unknown => StatusCode::NOT_FOUND,
        RefusalCode::NotOffered => StatusCode::UNPROCESSABLE_ENTITY,
        RefusalCode::Invalid => StatusCode::BAD_REQUEST,
        RefusalCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        RefusalCode::WrongTerm
        | RefusalCode::WrongFencingToken
        | RefusalCode::Draining
        | RefusalCode::NoCapacity => StatusCode::CONFLICT,
    }
}

/// A backend as a test makes it up.
pub fn made_up(term: Term, fencing_token: i64, key: Option<&str>) -> PutBackend {
    PutBackend {
        term,
        fencing_token: FencingToken(fencing_token),
        key: key.map(|name| jetway_protocol::key::Key {
            name: name.into(),
            namespace: String::new(),
            tag: String::new(),
        }),
        spec: jetway_protocol::spec::BackendSpec::of(jetway_protocol::spec::Executable::of_image("app")),
        grant: None,
        static_token: None,
        timeline: Vec::new(),
    }
}
