//! The demo's side of the web app: `GET /demo` asks the API for the room's session, as a backend would, and sends the
//! browser to its host. The same route is the session's `return_url`: a room's address that has no session any more
//! leads here, and from here to the next one. A visit starts a container, so that it must be the visitor's own doing: a
//! page of another origin (any web site, and any session) is answered with a link, and nothing is started.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use jetway_api::ErrorBody;
use jetway_api::backends::Backend;
use jetway_api::connect::ConnectResponse;
use jetway_api::drones::{DroneState, Drones};
use jetway_drone::runtime::docker::engine::Engine;
use jetway_protocol::ids::ClusterName;
use jetway_protocol::timeline::StageName;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::api::encode;

const CALL_DEADLINE: Duration = Duration::from_secs(45);
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
/// Seconds after the last window closed. Long enough for a reload, short enough to be seen.
const MAX_IDLE_SECONDS: u32 = 2;
/// The room of `/demo`.
const MAIN: &str = "main";
const ELSEWHERE: &str = "A room of the demo is a container on this machine, so that only you can open one.";

#[derive(Clone)]
pub struct Demo {
    api: SocketAddr,
    cluster: ClusterName,
    http: reqwest::Client,
    image: Arc<OnceLock<String>>,
}

/// What the proxy adds to `return_url`.
#[derive(Debug, Default, Deserialize)]
struct Returning {
    /// The page that the visitor wanted: a path with its query.
    jetway_path: Option<String>,
}

impl Demo {
    pub fn new(api: SocketAddr, cluster: ClusterName, http: reqwest::Client) -> Self {
        Self { api, cluster, http, image: Arc::default() }
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
        let drones = answer.json::<Drones>().await.map(|answer| answer.drones).unwrap_or_default();
        drones.iter().any(|drone| drone.state == DroneState::Ready)
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

    /// The room's route here.
    fn url(&self, room: &str) -> String {
        match room {
            MAIN => format!("http://{}/demo", self.api),
            room => format!("http://{}/demo/{}", self.api, encode(room)),
        }
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
            "url_form": "host",
            "return_url": self.url(room),
        });
        let request = self.http.post(format!("http://{}/ctrl/connect", self.api)).timeout(CALL_DEADLINE);
        let answer = request.json(&body).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status().is_success() {
            let connected: ConnectResponse = answer.json().await.map_err(|error| error.to_string())?;
            return Ok(connected.url);
        }
        let refusal: ErrorBody = answer.json().await.map_err(|error| error.to_string())?;
        Err(refusal.message)
    }
}

async fn main_room(
    State(demo): State<Demo>,
    Query(returning): Query<Returning>,
    headers: HeaderMap,
) -> Response {
    enter(&demo, &headers, MAIN, returning).await
}

async fn room(
    State(demo): State<Demo>,
    Path(room): Path<String>,
    Query(returning): Query<Returning>,
    headers: HeaderMap,
) -> Response {
    enter(&demo, &headers, &room, returning).await
}

async fn enter(demo: &Demo, headers: &HeaderMap, room: &str, returning: Returning) -> Response {
    if !is_own_doing(headers, &demo.cluster) {
        return (StatusCode::FORBIDDEN, page("Another site has sent you here", ELSEWHERE, "Open the room"))
            .into_response();
    }
    match demo.connect(room).await {
        Ok(url) => {
            let url = match returning.jetway_path {
                Some(wanted) => format!("{url}&path={}", encode(&wanted)),
                None => url,
            };
            // The URL is for this visitor alone; a cached redirect would hand it to the next.
            ([(header::CACHE_CONTROL, "no-store")], Redirect::temporary(&url)).into_response()
        }
        Err(message) => {
            (StatusCode::SERVICE_UNAVAILABLE, page("Not yet", &message, "Try again")).into_response()
        }
    }
}

/// Browsers say it in `Sec-Fetch-Site`, which no page can set (W3C Fetch Metadata Request Headers,
/// section 2.4), to addresses that they trust, as those of this machine; where they do not, the
/// page's origin is in `Referer`.
fn is_own_doing(headers: &HeaderMap, cluster: &ClusterName) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        // A room's page has a link for those who come late, and its own address leads here when
        // its session has ended: a click there is the visitor's own doing.
        let is_click = headers.get("sec-fetch-user").is_some_and(|user| user == "?1")
            && headers.get("sec-fetch-dest").is_some_and(|dest| dest == "document");
        let is_near = site == "same-site" || is_from_a_room(headers, cluster);
        return site == "none" || site == "same-origin" || is_click && is_near;
    }
    let host = headers.get(header::HOST);
    [header::ORIGIN, header::REFERER].into_iter().filter_map(|name| headers.get(name)).all(|from| {
        authority(from).zip(host).is_some_and(|(from, host)| from.as_str().as_bytes() == host.as_bytes())
    })
}

/// Whether the page that led here is served by the proxy: under the cluster's own name or below it.
fn is_from_a_room(headers: &HeaderMap, cluster: &ClusterName) -> bool {
    let from = headers.get(header::REFERER).and_then(authority);
    from.is_some_and(|from| {
        let before = from.as_str().strip_suffix(cluster.as_str());
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    })
}

fn authority(url: &HeaderValue) -> Option<Authority> {
    url.to_str().ok()?.parse::<Uri>().ok()?.into_parts().authority
}

fn page(title: &str, text: &str, link: &str) -> impl IntoResponse {
    let page = format!(
        "<!doctype html><meta charset=utf-8><title>Jetway demo</title>\
         <body style=\"font:16px system-ui;margin:4rem auto;max-width:36rem;color-scheme:light dark\">\
         <h1>{title}</h1><p>{}</p><p><a href=\"\">{link}</a></p>",
        escape(text)
    );
    // In a frame of another site, a click on the link would not be the visitor's own doing.
    ([(header::X_FRAME_OPTIONS, "DENY"), (header::CACHE_CONTROL, "no-store")], Html(page))
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
    let view: Backend = answer.json().await.ok()?;
    let key = view.summary.key?;
    // A room of the demo only: this route is open to any page.
    if key.namespace != "demo" {
        return None;
    }
    let stages = view.timeline.iter().filter(|stage| stage.stage != StageName::FirstByte);
    let total: f64 = stages.clone().map(|stage| stage.length_ms).sum();
    let stages: Vec<Value> =
        stages.map(|stage| json!({ "stage": stage.stage, "ms": stage.length_ms })).collect();
    Some(json!({
        "key": key.name, "backend_id": view.summary.backend_id, "how": "cold start", "total_ms": total,
        "stages": stages,
    }))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    #[test]
    fn only_the_visitor_opens_a_room() {
        let check = |lines: &[(&'static str, &str)], expect: bool| {
            let lines = lines.iter().chain(&[("host", "127.0.0.1:8080")]);
            let headers =
                lines.map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
            let cluster = "localhost:9090".parse().unwrap();
            assert_eq!(is_own_doing(&headers, &cluster), expect, "{headers:?}");
        };
        check(&[], true);
        check(&[("sec-fetch-site", "none")], true);
        check(&[("sec-fetch-site", "same-origin"), ("referer", "http://127.0.0.1:8080/demo")], true);
        check(&[("referer", "http://127.0.0.1:8080/demo")], true);
        let click = [("sec-fetch-user", "?1"), ("sec-fetch-dest", "document")];
        check(&[&[("sec-fetch-site", "same-site")][..], &click].concat(), true);
        check(&[&[("sec-fetch-site", "cross-site")][..], &click].concat(), false);
        for (from, expect) in [
            ("http://localhost:9090/", true),
            ("http://k-room.localhost:9090/", true),
            ("http://k-room.localhost:9091/", false),
            ("http://roomlocalhost:9090/", false),
            ("https://evil.example/", false),
        ] {
            let lines = [("sec-fetch-site", "cross-site"), ("referer", from)];
            check(&lines, false);
            check(&[&lines[..], &click].concat(), expect);
        }
        check(
            &[("sec-fetch-site", "same-site"), ("sec-fetch-user", "?1"), ("sec-fetch-dest", "iframe")],
            false,
        );
        for site in ["same-site", "cross-site", ""] {
            check(&[("sec-fetch-site", site)], false);
        }
        for from in [
            "http://127.0.0.1:9090/x",
            "https://evil.example/",
            "null",
            "http://127.0.0.1:8080.evil.example/",
        ] {
            check(&[("referer", from)], false);
            check(&[("origin", from)], false);
        }
    }
}
