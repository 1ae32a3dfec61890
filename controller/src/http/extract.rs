//! Request parts, whose every refusal has our shape: axum's own extractors answer with plain text.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header;
use axum::http::request::Parts;
use jetway_api::object::Object;
use jetway_protocol::error::Code;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ApiResult};

/// Bytes of a public request's body, at most.
pub const PUBLIC_BODY_BYTES_MAX: usize = 1024 * 1024;
const MESSAGE_CHARS_MAX: usize = 500;
/// A body that has not arrived by then is not waited for.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// A JSON object as the body. Not JSON is a 400, JSON of another shape a 422 that names the place.
pub struct ApiJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> ApiResult<Self> {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        if !content_type.is_some_and(|value| is_json(value.as_bytes())) {
            return Err(ApiError::new(
                Code::UnsupportedMediaType,
                "the body must be JSON, with the header Content-Type: application/json",
            ));
        }
        let bytes = read_body(request.into_body(), PUBLIC_BODY_BYTES_MAX).await?;
        let Object(value) = parse_json(&bytes)?;
        Ok(Self(value))
    }
}

/// Where the fault is, is looked for only once it is known that there is one.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    serde_json::from_slice(bytes).or_else(|_| parse_json_with_paths(bytes))
}

fn parse_json_with_paths<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut from).map_err(|error| {
        let path = error.path().to_string();
        let source = error.into_inner();
        match source.classify() {
            serde_json::error::Category::Data if path == "." => ApiError::invalid(cut(&source.to_string())),
            serde_json::error::Category::Data => ApiError::invalid(cut(&format!("{path}: {source}"))),
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => not_json(&source),
        }
    })?;
    from.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// What repeats a part of the body repeats no more than this of it.
fn cut(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::new(Code::InvalidJson, format!("the body is not JSON: {error}"))
}

/// The whole body, or a 413.
pub async fn read_body(body: Body, bytes_max: usize) -> ApiResult<Bytes> {
    match tokio::time::timeout(BODY_DEADLINE, axum::body::to_bytes(body, bytes_max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_large(&error) => {
            Err(ApiError::new(Code::BodyTooLarge, format!("the body is larger than {bytes_max} bytes")))
        }
        Ok(Err(_)) => Err(ApiError::new(Code::InvalidJson, "the body ended before it was whole")),
        Err(_) => Err(ApiError::new(
            Code::InvalidJson,
            format!("the body did not arrive within {} s", BODY_DEADLINE.as_secs()),
        )),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

pub fn is_json(content_type: &[u8]) -> bool {
    let kind = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(b"application/json")
}

/// Parts of the path, as text. What is not even text is nowhere.
pub struct ApiPath<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for ApiPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(error) => Err(ApiError::new(Code::RouteNotFound, error.body_text())),
        }
    }
}

pub struct ApiQuery<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(ApiError::invalid(error.body_text())),
        }
    }
}

/// Text that Postgres is asked about: it knows no U+0000.
pub fn without_nul(field: &str, text: &str) -> ApiResult<()> {
    if text.contains('\0') {
        return Err(ApiError::invalid(format!("{field} must not contain U+0000")));
    }
    Ok(())
}
