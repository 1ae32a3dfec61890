//! What internal endpoints take and answer.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::response::Response;
use jetway_protocol::controller_api::{Stale, StaleCode};
use jetway_service::controllers::CALL_MAX;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ApiResult};
use crate::http::extract::{parse_json, read_body};

/// For what a drone reports to be written: less than the drone waits.
pub const ANSWER_MAX: Duration = CALL_MAX.saturating_sub(Duration::from_secs(1));
/// A drone whose report was not written sends it again after this.
pub const RETRY_MS: u64 = 200;
/// A batch of events with the outputs of failed starts, or a heartbeat with thousands of images.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A message of ours.
pub struct Message<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Message<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> ApiResult<Self> {
        let bytes = read_body(request.into_body(), BODY_BYTES_MAX).await?;
        Ok(Self(parse_json(&bytes)?))
    }
}

/// What an internal endpoint answers besides its 2xx.
pub enum No {
    Stale(Stale),
    Api(ApiError),
}

impl No {
    pub fn stale(code: StaleCode, message: impl Into<String>) -> Self {
        No::Stale(Stale { code, message: message.into(), present: None })
    }
}

impl<E: Into<ApiError>> From<E> for No {
    fn from(error: E) -> Self {
        No::Api(error.into())
    }
}

impl axum::response::IntoResponse for No {
    fn into_response(self) -> Response {
        match self {
            No::Stale(stale) => (http::StatusCode::CONFLICT, axum::Json(stale)).into_response(),
            No::Api(error) => error.into_response(),
        }
    }
}
