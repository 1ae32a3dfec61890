//! What a test has the application serve besides, and what was asked of it.
//!
//! `FILES`: JSON, from a path to `{"type", "body", "headers"?}`. With it every request is noted, and `/seen` lists
//! them; without it nothing of this is there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use axum::Json;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

const SEEN_MAX: usize = 2000;

static SEEN: Mutex<VecDeque<Value>> = Mutex::new(VecDeque::new());

/// The application with its files.
pub fn with_files(routes: Router, files: &str) -> Router {
    let files: BTreeMap<String, Value> = serde_json::from_str(files).expect("FILES is JSON");
    let serve = move |uri: Uri| {
        let answer = files.get(uri.path()).map(served);
        async move { answer.unwrap_or_else(|| (StatusCode::NOT_FOUND, "no such file").into_response()) }
    };
    // Added after the layer, so that looking on is not seen itself.
    routes.fallback(serve).layer(from_fn(noted)).route("/seen", get(seen))
}

fn served(file: &Value) -> Response {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut response = ([("content-type", text(&file["type"]))], text(&file["body"])).into_response();
    for (name, value) in file["headers"].as_object().into_iter().flatten() {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        response.headers_mut().append(name, text(value).parse().expect("a value"));
    }
    response
}

async fn noted(request: Request, next: Next) -> Response {
    note(&request);
    next.run(request).await
}

fn note(request: &Request) {
    let headers: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| [name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()])
        .collect();
    let (method, path) = (request.method().as_str(), request.uri().to_string());
    let mut seen = SEEN.lock().expect("no panic holds it");
    seen.push_back(json!({ "method": method, "path": path, "headers": headers }));
    if seen.len() > SEEN_MAX {
        seen.pop_front();
    }
}

async fn seen() -> Json<Value> {
    Json(SEEN.lock().expect("no panic holds it").iter().cloned().collect())
}
