//! The one error of the public API, and the only place that knows how a failure becomes an answer. Whatever fails
//! deeper down becomes an [`ApiError`] where its meaning for the caller is known.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jetway_api::refusal::Refusal;
pub use jetway_api::refusal::shown;
use jetway_protocol::error::{Code, ErrorBody, PassedOver};
use jetway_protocol::status::{End, EndReason};
use jetway_service::lines::Lines;

use crate::db::DbError;

/// After a fault of the database: a failover is over in seconds.
const DATABASE_RETRY_MS: u64 = 1000;
/// Each request fails while it is away: that many lines tell as much.
static DATABASE_ERRORS: Lines = Lines::new(50, Duration::from_secs(10));

#[derive(Debug, Clone)]
pub struct ApiError(Box<ErrorBody>);

pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorBody {
            id: random_id(),
            kind: code.kind(),
            message: message.into(),
            code,
            retry_after_ms: None,
            drones: Vec::new(),
            end_reason: None,
            output: None,
            backend_id: None,
        }))
    }

    /// A request that is not of the documented shape.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    pub fn unknown_backend(id: &str) -> Self {
        Self::new(Code::BackendNotFound, format!("there is no backend {}", shown(id)))
    }

    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.0.retry_after_ms = Some(ms);
        self
    }

    pub fn passed_over(mut self, drones: Vec<PassedOver>) -> Self {
        self.0.drones = drones;
        self
    }

    pub fn about(mut self, backend: &impl ToString) -> Self {
        self.0.backend_id = Some(backend.to_string());
        self
    }

    pub fn ended(mut self, end: &End) -> Self {
        self.0.end_reason = Some(end.reason);
        self.0.output = Some(end.output.clone()).filter(|output| !output.is_empty());
        self
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Of a backend whose end this is about.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.0.end_reason
    }

    #[cfg(test)]
    pub fn body(&self) -> &ErrorBody {
        &self.0
    }
}

fn random_id() -> String {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    id.truncate(14);
    id
}

impl From<Refusal> for ApiError {
    fn from(Refusal { code, message }: Refusal) -> Self {
        Self::new(code, message)
    }
}

/// Logged here once; the caller learns that waiting helps.
impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        use std::error::Error;
        let answer = match &error {
            DbError::Query(_) | DbError::Silent | DbError::Together(_) => {
                Self::new(Code::Database, "the database does not answer; try again")
                    .retry_after_ms(DATABASE_RETRY_MS)
            }
            DbError::Row { .. } => {
                Self::new(Code::Internal, "a stored row cannot be read; see the controller's log")
            }
        };
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        if let Some(left_out) = DATABASE_ERRORS.tell() {
            tracing::error!(id = answer.0.id, %error, source, left_out, "database");
        }
        answer
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        DbError::from(error).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = *self.0;
        let status =
            StatusCode::from_u16(body.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = body.retry_after_ms.map(|ms| HeaderValue::from(ms.div_ceil(1000)));
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_code_s_status_and_says_when_to_come_back() {
        let answer = ApiError::new(Code::KeyStopping, "wait").retry_after_ms(1500).into_response();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "2");
    }

    #[test]
    fn ids_are_as_long_as_plane_s() {
        assert_eq!(ApiError::invalid("").body().id.len(), 14);
    }
}
