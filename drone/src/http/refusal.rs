//! The drone's own "no": a status, and a [`Refusal`] as JSON. Also the readers of requests that say no in that shape.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use jetway_protocol::drone_api::{Refusal, RefusalCode};
use jetway_protocol::ids::{BackendId, FencingToken, Term};
use jetway_protocol::lease::{Heed, heed};
use serde::de::DeserializeOwned;

use super::gate::Gate;
use crate::agent::Agent;
use crate::backend::{Backend, HasEnded};

/// A body that does not arrive within this is not waited for.
const BODY_SECONDS_MAX: u64 = 10;

#[derive(Debug)]
pub struct No {
    code: RefusalCode,
    message: String,
}

impl No {
    /// Whether the same request will never be taken: then a second copy of it must not be, either.
    pub fn is_final(&self) -> bool {
        match self.code {
            RefusalCode::WrongTerm
            | RefusalCode::Draining
            | RefusalCode::NoCapacity
            | RefusalCode::NotOffered
            | RefusalCode::Declined
            | RefusalCode::Invalid => true,
            RefusalCode::WrongFencingToken
            | RefusalCode::Ended
            | RefusalCode::Unknown
            | RefusalCode::Busy
            | RefusalCode::Unavailable => false,
        }
    }

    /// Whether it refuses nothing, and takes nothing.
    pub fn is_put_off(&self) -> bool {
        self.code == RefusalCode::Unavailable
    }

    /// What is said instead to somebody who would rather be refused for good than be put off.
    pub fn or_never(self) -> Self {
        match self.code {
            RefusalCode::Unavailable => Self { code: RefusalCode::Declined, ..self },
            _ => self,
        }
    }
}

pub fn no(code: RefusalCode, message: impl Into<String>) -> No {
    No { code, message: message.into() }
}

impl From<No> for Refusal {
    fn from(No { code, message }: No) -> Self {
        Self { code, message }
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let status = match self.code {
            RefusalCode::WrongTerm
            | RefusalCode::WrongFencingToken
            | RefusalCode::Draining
            | RefusalCode::NoCapacity
            | RefusalCode::Declined => StatusCode::CONFLICT,
            RefusalCode::Ended => StatusCode::GONE,
            RefusalCode::Unknown => StatusCode::NOT_FOUND,
            RefusalCode::NotOffered => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalCode::Invalid => StatusCode::BAD_REQUEST,
            RefusalCode::Busy => StatusCode::TOO_MANY_REQUESTS,
            RefusalCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        with_status(status, self.code, self.message)
    }
}

pub async fn no_route() -> Response {
    no(RefusalCode::Unknown, "no such route").into_response()
}

pub async fn no_method() -> Response {
    with_status(
        StatusCode::METHOD_NOT_ALLOWED,
        RefusalCode::Invalid,
        "the route has no such method".to_owned(),
    )
}

pub fn no_credential() -> Response {
    let message =
        "the credential of this route's callers is missing or wrong: check JETWAY_SECRET on both sides";
    with_status(StatusCode::UNAUTHORIZED, RefusalCode::Invalid, message.to_owned())
}

fn with_status(status: StatusCode, code: RefusalCode, message: String) -> Response {
    (status, Json(Refusal { code, message })).into_response()
}

/// The agent, once it serves.
pub struct Serving(pub std::sync::Arc<Agent>);

impl FromRequestParts<Gate> for Serving {
    type Rejection = No;

    async fn from_request_parts(_: &mut Parts, gate: &Gate) -> Result<Self, No> {
        Self::at(gate)
    }
}

impl Serving {
    pub fn at(gate: &Gate) -> Result<Self, No> {
        let agent = gate.agent().ok_or_else(|| no(RefusalCode::Unavailable, "the drone is starting"))?;
        Ok(Self(agent.clone()))
    }
}

/// The id in the path.
pub struct Id(pub BackendId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = No;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, No> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = text.map_err(|error| no(RefusalCode::Invalid, error.body_text()))?;
        text.parse().map(Self).map_err(|error| no(RefusalCode::Invalid, format!("{error}")))
    }
}

/// A JSON body, whole and in time.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = No;

    async fn from_request(request: Request, state: &S) -> Result<Self, No> {
        let bytes = axum::body::Bytes::from_request(request, state);
        let bytes = tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), bytes).await;
        let bytes = bytes.map_err(|_| no(RefusalCode::Unavailable, "the body did not arrive in time"))?;
        let bytes = bytes.map_err(|error| not_whole(&error))?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| no(RefusalCode::Invalid, error.to_string()))
    }
}

/// The same body may arrive whole the next time, unless it is larger than any may be.
fn not_whole(error: &BytesRejection) -> No {
    let is_too_large =
        matches!(error, BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)));
    let code = if is_too_large { RefusalCode::Invalid } else { RefusalCode::Unavailable };
    no(code, error.body_text())
}

/// Only commands of the present term count. One of a later term means that this drone has missed its own registration.
pub fn check_term(agent: &Agent, term: Term) -> Result<(), No> {
    let own = agent.membership.term();
    match (heed(own, term), own) {
        (Heed::Yes, _) => Ok(()),
        (Heed::Over, own) => {
            let own = own.map_or_else(String::new, |own| own.to_string());
            Err(no(RefusalCode::WrongTerm, format!("the drone's term is {own}, the command's is {term}")))
        }
        (Heed::NotYet, None) => Err(no(RefusalCode::Unavailable, "the drone is not registered yet")),
        (Heed::NotYet, Some(own)) => {
            agent.membership.report_stale(own);
            let message = format!("the drone's term is {own}, the command's {term}: it registers again");
            Err(no(RefusalCode::Unavailable, message))
        }
    }
}

/// For commands of controllers from before the lease, which say no term.
pub fn check_term_if_said(agent: &Agent, term: Option<Term>) -> Result<(), No> {
    term.map_or(Ok(()), |term| check_term(agent, term))
}

pub fn check_fencing(backend: &Backend, given: FencingToken) -> Result<(), No> {
    if backend.fencing_token == given {
        return Ok(());
    }
    Err(no(RefusalCode::WrongFencingToken, format!("{} is known under another fencing token", backend.id)))
}

/// The live backend, or why there is none.
pub fn live(agent: &Agent, id: &BackendId) -> Result<std::sync::Arc<Backend>, No> {
    agent.backend(id).ok_or_else(|| not_live(agent, id))
}

pub fn not_live(agent: &Agent, id: &BackendId) -> No {
    match agent.tombstones().get(id) {
        Some(tombstone) => {
            let reason = serde_json::to_value(tombstone.end.reason).unwrap_or_default();
            no(RefusalCode::Ended, format!("{id} has ended: {}", reason.as_str().unwrap_or("unknown")))
        }
        None => no(RefusalCode::Unknown, format!("{id} is not on this drone")),
    }
}

/// A backend that ended while it was asked has its tombstone. One without is only not served any more: the agent stops,
/// and the next one takes the backend over.
pub fn ended(agent: &Agent, id: &BackendId) -> impl FnOnce(HasEnded) -> No {
    let has_tombstone = agent.tombstones().get(id).is_some();
    let refusal = if has_tombstone {
        not_live(agent, id)
    } else {
        no(RefusalCode::Unavailable, "the drone is stopping: try again once it is back")
    };
    move |HasEnded| refusal
}
