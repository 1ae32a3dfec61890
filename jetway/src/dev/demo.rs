//! The demo's side of the web app: `GET /demo` asks the API for the room's session, as a backend would, and sends the
//! browser to its URL.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use jetway_drone::runtime::docker::engine::Engine;
use serde_json::{Value, json};

const CALL_DEADLINE: Duration = Duration::from_secs(45);
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
/// Seconds after the last window closed. Long enough for a reload, short enough to be seen.
const MAX_IDLE_SECONDS: u32 = 2;

#[derive(Clone)]
pub struct Demo {
    api: SocketAddr,
    http: reqwest::Client,
    image: Arc<OnceLock<String>>,
}

impl Demo {
    pub fn new(api: SocketAddr, http: reqwest::Client) -> Self {
        Self { api, http, image: Arc::default() }
    }

    pub fn api(&self) -> SocketAddr {
        self.api
    }

    pub fn image(&self) -> Option<&str> {
        self.image.get().map(String::as_str)
    }

    /// Whether a connect would find a drone now.
    pub async fn is_placeable(&self) -> bool {
        let request = self.http.get(format!("http://{}/ctrl/drones", self.api)).timeout(LOOK_DEADLINE);
        let Ok(answer) = request.send().await else { return false };
        let drones: Value = answer.json().await.unwrap_or_default();
        drones["drones"].as_array().is_some_and(|drones| drones.iter().any(|drone| drone["state"] == "ready"))
    }

    /// Builds the image from this very executable, unless it is there already.
    pub async fn prepare_image(&self) -> anyhow::Result<()> {
        let mut engine = Engine::from_environment()?;
        engine.check().await?;
        let image = crate::demo::image::ensure_image(engine.docker(), &std::env::current_exe()?).await?;
        let _set_once = self.image.set(image);
        Ok(())
    }

    pub fn routes(&self) -> Router {
        Router::new()
            .route("/", get(async || Redirect::temporary("/demo")))
            .route("/demo", get(main_room))
            .route("/demo/{room}", get(room))
            .route("/demo/info/{backend}", get(info))
            .with_state(self.clone())
    }

    /// What a web app's backend does: one call with a key.
    async fn connect(&self, room: &str) -> Result<String, String> {
        let Some(image) = self.image() else { return Err("the demo is still being prepared".to_owned()) };
        let body = json!({
            "key": { "name": room, "namespace": "demo" },
            "spawn_config": {
                "executable": {
                    "image": image,
                    "env": { "DEMO_API": format!("http://{}", self.api) },
                    "read_only": true,
                },
                "max_idle_seconds": MAX_IDLE_SECONDS,
            },
        });
        let request = self.http.post(format!("http://{}/ctrl/connect", self.api)).timeout(CALL_DEADLINE);
        let answer = request.json(&body).send().await;
        let answer: Value = match answer {
            Ok(answer) => answer.json().await.map_err(|error| error.to_string())?,
            Err(error) => return Err(error.to_string()),
        };
        match answer["url"].as_str() {
            Some(url) => Ok(url.to_owned()),
            None => Err(answer["message"].as_str().unwrap_or("the API gave no URL").to_owned()),
        }
    }
}

async fn main_room(State(demo): State<Demo>) -> Response {
    enter(&demo, "main").await
}

async fn room(State(demo): State<Demo>, Path(room): Path<String>) -> Response {
    enter(&demo, &room).await
}

async fn enter(demo: &Demo, room: &str) -> Response {
    match demo.connect(room).await {
        // The URL is for this visitor alone; a cached redirect would hand it to the next.
        Ok(url) => ([(header::CACHE_CONTROL, "no-store")], Redirect::temporary(&url)).into_response(),
        Err(message) => {
            let page = format!(
                "<!doctype html><meta charset=utf-8><title>Jetway demo</title>\
                 <body style=\"font:16px system-ui;margin:4rem auto;max-width:36rem;color-scheme:light dark\">\
                 <h1>Not yet</h1><p>{}</p><p><a href=\"\">Try again</a></p>",
                escape(&message)
            );
            (StatusCode::SERVICE_UNAVAILABLE, Html(page)).into_response()
        }
    }
}

/// How the session was started, for the page; it is read from the session's own origin.
async fn info(State(demo): State<Demo>, Path(backend): Path<String>) -> Response {
    let cors = [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"), (header::CACHE_CONTROL, "no-store")];
    match start_of(&demo, &backend).await {
        Some(info) => (cors, axum::Json(info)).into_response(),
        None => (StatusCode::NOT_FOUND, cors, axum::Json(Value::Null)).into_response(),
    }
}

async fn start_of(demo: &Demo, backend: &str) -> Option<Value> {
    let backend: jetway_protocol::ids::BackendId = backend.parse().ok()?;
    let url = format!("http://{}/ctrl/backends/{backend}", demo.api);
    let answer = demo.http.get(url).timeout(CALL_DEADLINE).send().await.ok()?;
    let view: Value = answer.json().await.ok()?;
    // A room of the demo only: this route is open to any page.
    if view["key"]["namespace"] != "demo" {
        return None;
    }
    let stages: Vec<Value> = view["timeline"]
        .as_array()?
        .iter()
        .filter(|stage| stage["stage"] != "first_byte")
        .map(|stage| json!({ "stage": stage["stage"], "ms": stage["length_ms"] }))
        .collect();
    let total: f64 = stages.iter().filter_map(|stage| stage["ms"].as_f64()).sum();
    Some(json!({
        "key": view["key"]["name"], "backend_id": view["backend_id"], "how": "cold start", "total_ms": total, "stages": stages,
    }))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
