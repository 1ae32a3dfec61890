//! The web app whose sessions these are, as small as one can be. It knows its people by a cookie, connects for them, sends
//! them on to where they wanted to go, and shows a session in a frame.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What it shows a person whom it does not know.
pub const ASKS: &str = "Who are you?";

pub struct WebApp {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

struct Shared {
    connect: String,
    http: reqwest::Client,
    /// The connect that it makes for a person, without the person.
    request: Mutex<Value>,
    arrivals: Mutex<Vec<Arrival>>,
}

/// A browser that Jetway sent here.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub reason: String,
    pub path: String,
    /// Of the connect.
    pub took: Duration,
}

impl WebApp {
    pub async fn start(api: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            connect: format!("{api}/ctrl/connect"),
            http: reqwest::Client::new(),
            request: Mutex::default(),
            arrivals: Mutex::default(),
        });
        let routes = Router::new()
            .route("/open", get(open))
            .route("/sign-in/{user}", get(sign_in))
            .route("/frame", get(frame))
            .with_state(Arc::clone(&shared));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, routes).await.expect("the web app serves") });
        Ok(Self { address, shared, _server: server })
    }

    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where Jetway sends browsers that it does not let in.
    pub fn return_url(&self) -> String {
        format!("{}/open", self.origin())
    }

    pub fn connects_with(&self, request: &Value) {
        *self.shared.request.lock() = request.clone();
    }

    pub fn last_arrival(&self) -> Option<Arrival> {
        self.shared.arrivals.lock().last().cloned()
    }
}

async fn open(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let word = |name: &str| query.get(name).cloned().unwrap_or_default();
    let mut arrival =
        Arrival { reason: word("jetway_reason"), path: word("jetway_path"), took: Duration::ZERO };
    let Some(user) = user(&headers) else {
        shared.arrivals.lock().push(arrival);
        return Html(format!("<title>My web app</title><p>{ASKS}</p>")).into_response();
    };
    let mut request = shared.request.lock().clone();
    request["user"] = json!(user);
    let start = Instant::now();
    let connected = connected(&shared, &request, &arrival.path).await;
    arrival.took = start.elapsed();
    shared.arrivals.lock().push(arrival);
    match connected {
        Ok(url) => Redirect::to(&url).into_response(),
        Err(error) => Html(format!("<title>My web app</title><pre>{error:#}</pre>")).into_response(),
    }
}

async fn connected(shared: &Shared, request: &Value, path: &str) -> anyhow::Result<String> {
    let answer: Value = shared.http.post(&shared.connect).json(request).send().await?.json().await?;
    let url = answer["url"].as_str().with_context(|| answer.to_string())?;
    Ok(with_path(url, path))
}

/// An entering URL that leads to a path of the application's.
pub fn with_path(url: &str, path: &str) -> String {
    if path.is_empty() {
        return url.to_owned();
    }
    let mut url = reqwest::Url::parse(url).expect("Jetway's URL");
    url.query_pairs_mut().append_pair("path", path);
    url.to_string()
}

fn user(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    cookies.split("; ").find_map(|cookie| cookie.strip_prefix("user=")).map(str::to_owned)
}

async fn sign_in(Path(user): Path<String>) -> Response {
    let cookie = format!("user={user}; Path=/; HttpOnly; SameSite=Lax");
    ([(header::SET_COOKIE, cookie)], Html(format!("<title>My web app</title><p>Hello, {user}</p>")))
        .into_response()
}

async fn frame(Query(query): Query<HashMap<String, String>>) -> Html<String> {
    let source = query.get("src").map(|source| source.replace('&', "&amp;")).unwrap_or_default();
    Html(format!(
        "<title>My web app</title><h1>My web app</h1><iframe src=\"{source}\" width=\"800\" height=\"400\"></iframe>"
    ))
}
