//! `GET /openapi.json`: every route of `/ctrl` and `/pub` as OpenAPI 3.1, made from the handlers'
//! annotations and the types of `jetway-api`. The refusals that all routes of one kind share
//! (access, a body's faults, a silent Postgres) are added here, once.

use std::sync::OnceLock;

use axum::body::Bytes;
use axum::http::header;
use axum::response::IntoResponse;
use jetway_api::ErrorBody;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, Required, Response, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

/// The name of the scheme in the document.
const API_KEY: &str = "api_key";

const CTRL: [(&str, &str); 2] = [
    ("401", "`unauthorized`: no or a wrong API key"),
    ("403", "`forbidden_origin`: without an API key, an unknown Host, or a foreign Origin"),
];
const WITH_BODY: [(&str, &str); 4] = [
    ("400", "`invalid_json`: the body is not JSON, was cut off, or took longer than 30 s"),
    ("413", "`body_too_large`: more than 1 MiB"),
    ("415", "`unsupported_media_type`: a body without `Content-Type: application/json`"),
    (
        "422",
        "`invalid_request`: a wrong type, an unknown field or a value out of range, named by the message",
    ),
];
const ANY: [(&str, &str); 2] = [
    ("500", "`internal`: a fault of Jetway's; its log has the id"),
    ("503", "`database`: Postgres does not answer; try again after `retry_after_ms`"),
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Jetway",
        description = "A process of its own for each key, and a URL to it. `/ctrl` is for the backends of web apps \
                       and for operators, `/pub` for browsers. Branch on an error's `code`, not on its message.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(ErrorBody)),
    tags(
        (name = "sessions", description = "From a key to a URL, and what becomes of the backend behind it."),
        (name = "status", description = "For browsers: where a backend is."),
        (name = "pools", description = "Slots that are kept ready."),
        (name = "operating", description = "Drones, certificates, and the controller itself."),
    ),
)]
pub struct Document;

static WRITTEN: OnceLock<Bytes> = OnceLock::new();

/// Keeps the document as it will be sent. The routes of a program do not change: the first stands.
pub fn keep(document: utoipa::openapi::OpenApi) {
    WRITTEN.get_or_init(|| {
        // The document is our own types, which always become JSON.
        complete(document).to_json().unwrap_or_default().into()
    });
}

/// This document: OpenAPI 3.1.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operating",
    responses((status = 200, description = "The document", body = Object, content_type = "application/json")),
)]
pub async fn openapi() -> impl IntoResponse {
    let document = WRITTEN.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], document)
}

fn complete(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "Needed where the controller was started with an API key. Without one, on loopback, requests need a Host \
         of this machine and no foreign Origin.",
    ));
    document
        .components
        .get_or_insert_default()
        .add_security_scheme(API_KEY, SecurityScheme::Http(key.build()));
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let (is_ctrl, is_public) = (path.starts_with("/ctrl/"), path.starts_with("/pub/"));
            if is_ctrl {
                operation.security = Some(vec![
                    SecurityRequirement::new::<_, [&str; 0], &str>(API_KEY, []),
                    SecurityRequirement::default(),
                ]);
                refusals(operation, &CTRL);
            }
            if let Some(RefOr::T(body)) = &operation.request_body {
                let is_required = body.required == Some(Required::True);
                let of_body = WITH_BODY.into_iter().filter(|(status, _)| is_required || *status != "415");
                refusals(operation, &of_body.collect::<Vec<_>>());
            }
            if is_ctrl || is_public {
                refusals(operation, &ANY);
            }
        }
    }
    document
}

/// Adds the refusals that the operation does not describe itself.
fn refusals(operation: &mut Operation, refusals: &[(&str, &str)]) {
    for (status, description) in refusals {
        let present = operation.responses.responses.entry((*status).to_owned());
        present.or_insert_with(|| RefOr::T(refusal(description)));
    }
}

fn refusal(description: &str) -> Response {
    let schema = Ref::from_schema_name(ErrorBody::name());
    let content = Content::new(Some(schema));
    ResponseBuilder::new().description(description).content("application/json", content).build()
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
