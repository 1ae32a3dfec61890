//! How the tests' drone can be told to behave, and what it says at an end.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jetway_protocol::drone_api::{BackendView, GrantView, PutBackend, Refusal, RefusalCode};
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, FencingToken, Term};
use jetway_protocol::status::{End, EndReason, TerminationKind};
use jetway_protocol::time::UnixMicros;

use super::Kept;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Usual,
    /// Refuses what is put.
    Refuse(RefusalCode),
    /// Refuses the next one that is put.
    RefuseOnce(RefusalCode),
    /// Puts off what is put, or declines it where that is asked for.
    PutsOff,
    /// Something between answers for it.
    BehindABadGateway,
    /// Takes what comes, and never answers.
    Silent,
    /// Knows nothing of what it has: as after the loss of its disk.
    Forgetful,
    /// Takes what is put, and can say nothing about it.
    Mute,
    /// Lets nobody else into what it has.
    TakesNoGrants,
    /// Of a version that takes grants only one by one.
    BeforeGrantsTogether,
    /// Shows a backend once as it was; then it has ended.
    EndsAfterALook,
}

impl Mode {
    /// What it says to a `PUT`, where that is no.
    #[expect(clippy::result_large_err, reason = "a refusal is a whole answer, and speed is nothing here")]
    pub fn take_put(&mut self, body: &PutBackend) -> Result<(), Response> {
        match *self {
            Mode::Refuse(code) => Err(no(code)),
            Mode::RefuseOnce(code) => {
                *self = Mode::Usual;
                Err(no(code))
            }
            Mode::PutsOff if body.or_never => Err(no(RefusalCode::Declined)),
            Mode::PutsOff => Err(no(RefusalCode::Unavailable)),
            Mode::BehindABadGateway => Err((StatusCode::BAD_GATEWAY, "<html>").into_response()),
            Mode::Usual
            | Mode::Silent
            | Mode::Forgetful
            | Mode::Mute
            | Mode::TakesNoGrants
            | Mode::BeforeGrantsTogether
            | Mode::EndsAfterALook => Ok(()),
        }
    }
}

pub fn no(code: RefusalCode) -> Response {
    (status_of(code), Json(refusal(code))).into_response()
}

pub fn refusal(code: RefusalCode) -> Refusal {
    Refusal { code, message: format!("{code:?}") }
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
fn status_of(code: RefusalCode) -> StatusCode {
    match code {
        RefusalCode::Ended => StatusCode::GONE,
        RefusalCode::Unknown => StatusCode::NOT_FOUND,
        RefusalCode::NotOffered => StatusCode::UNPROCESSABLE_ENTITY,
        RefusalCode::Invalid => StatusCode::BAD_REQUEST,
        RefusalCode::Busy => StatusCode::TOO_MANY_REQUESTS,
        RefusalCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        RefusalCode::WrongTerm
        | RefusalCode::WrongFencingToken
        | RefusalCode::Draining
        | RefusalCode::NoCapacity
        | RefusalCode::Declined => StatusCode::CONFLICT,
    }
}

pub fn shown(id: &BackendId, kept: &Kept) -> BackendView {
    let grant = |grant: &Grant| GrantView {
        id: grant.id,
        user: grant.user.clone(),
        added: UnixMicros(1),
        used: false,
    };
    BackendView {
        id: id.clone(),
        fencing_token: kept.put.fencing_token,
        key: kept.put.key.clone(),
        status: kept.history.last().unwrap().status,
        history: kept.history.clone(),
        timeline: kept.put.timeline.clone(),
        grants: kept.grants.iter().map(grant).collect(),
        connections: 2,
        listening_elsewhere: Vec::new(),
        hint: None,
        idle_in_ms: None,
        lifetime_in_ms: None,
        address: None,
        on_isolation: Some(kept.put.spec.on_isolation),
        subdomain: kept.put.spec.subdomain.clone(),
        use_static_token: kept.put.spec.use_static_token,
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
        or_never: false,
    }
}
