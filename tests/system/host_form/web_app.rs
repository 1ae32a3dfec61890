//! The web app of these tests, at a site of its own: it connects in the host form for whomever is signed in, sends the
//! browser to the session, and is the `return_url` of all. Every visit is noted.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::harness::Stack;

/// Plain HTTP, at the usual port as browsers see it.
pub const HOST: &str = "app.test";
const NOT_ALLOWED: &str = "<!doctype html><title>not allowed</title>You may not enter this any more.";
const ELSEWHERE: &str = "<!doctype html><title>elsewhere</title><body>A page of another site.";

pub struct WebApp {
    pub port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    api: String,
    http: reqwest::Client,
    /// By key: what is connected for it.
    requests: Mutex<BTreeMap<String, Value>>,
    visits: Mutex<Vec<Visit>>,
}

#[derive(Debug, Clone)]
pub struct Visit {
    /// With its query.
    pub path: String,
    pub referer: String,
}

impl Visit {
    /// A field of the query, as it was before it was encoded.
    pub fn field(&self, name: &str) -> Option<String> {
        let url = reqwest::Url::parse(&format!("http://{HOST}{}", self.path)).ok()?;
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

impl Drop for WebApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl WebApp {
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    pub async fn start(stack: &Stack) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            api: stack.api.clone(),
            http: stack.http.clone(),
            requests: Mutex::default(),
            visits: Mutex::default(),
        });
        let router = Router::new()
            .route("/open/{key}", get(open))
            .fallback(async || Html(ELSEWHERE))
            .layer(from_fn_with_state(shared.clone(), noted))
            .with_state(shared.clone());
        let task = tokio::spawn(async move {
            let _ended = axum::serve(listener, router).await;
        });
        Ok(Self { port, shared, task })
    }

    /// Where people open a key, and are sent back to.
    pub fn url(key: &str) -> String {
        format!("http://{HOST}/open/{key}")
    }

    /// From now on it connects with this request for its key, and itself as `return_url`.
    pub fn offers(&self, request: &Value) -> anyhow::Result<()> {
        let key = request["key"]["name"].as_str().context("a key")?.to_owned();
        let mut request = request.clone();
        request["return_url"] = json!(Self::url(&key));
        self.shared.requests.lock().expect("no panic").insert(key, request);
        Ok(())
    }

    pub fn visits(&self) -> Vec<Visit> {
        self.shared.visits.lock().expect("no panic").clone()
    }

    /// The last time that somebody was sent back to a key.
    pub fn last_return(&self, key: &str) -> anyhow::Result<Visit> {
        let visits = self.visits();
        let path = format!("/open/{key}?");
        let found = visits.iter().rev().find(|visit| visit.path.starts_with(&path));
        found.cloned().with_context(|| format!("nobody was sent back to {key}: {visits:?}"))
    }
}

async fn noted(State(app): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    // Browsers ask for it by themselves.
    if request.uri().path() != "/favicon.ico" {
        let referer = request.headers().get(header::REFERER).and_then(|value| value.to_str().ok());
        let (path, referer) = (request.uri().to_string(), referer.unwrap_or_default().to_owned());
        app.visits.lock().expect("no panic").push(Visit { path, referer });
    }
    next.run(request).await
}

async fn open(
    State(app): State<Arc<Shared>>,
    Path(key): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    if query.get("jetway_reason").is_some_and(|reason| reason == "revoked") {
        return (StatusCode::FORBIDDEN, Html(NOT_ALLOWED)).into_response();
    }
    match connected(&app, &key, &query).await {
        Ok(url) => (StatusCode::SEE_OTHER, [(header::LOCATION, url)]).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")).into_response(),
    }
}

/// As an app's own code does: connect, choose the port's host where one is named, add the path.
async fn connected(app: &Shared, key: &str, query: &HashMap<String, String>) -> anyhow::Result<String> {
    let request = app.requests.lock().expect("no panic").get(key).cloned().context("no such key")?;
    let answer = app.http.post(format!("{}/ctrl/connect", app.api)).json(&request).send().await?;
    let answer: Value = answer.json().await?;
    let url = match query.get("jetway_port") {
        None => answer["url"].as_str(),
        Some(port) => {
            let hosts = answer["urls"].as_object().context("urls")?;
            let mut named = hosts.iter().filter(|(host, _)| host.starts_with(&format!("{port}--")));
            named.next().and_then(|(_, url)| url.as_str())
        }
    };
    let url = url.with_context(|| answer.to_string())?;
    Ok(match query.get("jetway_path") {
        Some(path) => format!("{url}&path={}", encode(path)),
        None => url.to_owned(),
    })
}

/// For a query: unreserved characters stay.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _written = write!(out, "%{byte:02X}");
        }
        out
    })
}
