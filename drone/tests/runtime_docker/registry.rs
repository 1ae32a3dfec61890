//! A registry of one small image, on loopback, that can be slow, private or broken. It speaks as much of the registry
//! protocol (version 2) as a pull needs. Not its business: pushing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use jetway_service::lifecycle::Lifecycle;
use jetway_service::tar;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Layers that an open registry serves: more than any test asks for.
const LAYERS: usize = 1000;

pub struct Registry {
    pub address: SocketAddr,
    served: Arc<Served>,
    lifecycle: Lifecycle,
}

struct Served {
    layer: Bytes,
    config: Bytes,
    manifest: Bytes,
    /// `user:password`, where one is needed.
    login: Option<String>,
    /// A blob is served when it gets a permit.
    gate: Semaphore,
    manifests: AtomicUsize,
    layers: AtomicUsize,
}

impl Registry {
    /// Serves `/v2/<any name>/manifests/v`; every other tag is unknown. With `is_open` false, layers wait.
    pub async fn start(login: Option<&str>, is_open: bool) -> Self {
        let unique = uuid::Uuid::new_v4().to_string();
        let content = unique.repeat(3000);
        let file = tar::File { path: "unique", mode: 0o644, bytes: content.as_bytes() };
        let layer = Bytes::from(tar::archive(&[file]));
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Cmd": ["/none"], "StopSignal": "SIGQUIT", "User": "7"},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
            "history": [{"created_by": "test"}],
        });
        let config = Bytes::from(config.to_string());
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": config.len(), "digest": digest(&config),
            },
            "layers": [{
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": layer.len(), "digest": digest(&layer),
            }],
        });
        let served = Arc::new(Served {
            layer,
            config,
            manifest: Bytes::from(manifest.to_string()),
            login: login.map(str::to_owned),
            gate: Semaphore::new(if is_open { LAYERS } else { 0 }),
            manifests: AtomicUsize::new(0),
            layers: AtomicUsize::new(0),
        });
        let routes = Router::new()
            .route("/v2/", get(root))
            .route("/v2/{name}/manifests/{reference}", get(manifest_of))
            .route("/v2/{name}/blobs/{digest}", get(blob))
            .with_state(Arc::clone(&served));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        lifecycle.spawn_until_stopped(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, served, lifecycle }
    }

    pub fn image(&self, tag: &str) -> String {
        format!("{}/test-{}:{tag}", self.address, self.address.port())
    }

    pub fn open(&self) {
        self.served.gate.add_permits(LAYERS);
    }

    pub fn layer_bytes(&self) -> u64 {
        self.served.layer.len() as u64
    }

    /// How often the layer was asked for.
    pub fn layers_asked(&self) -> usize {
        self.served.layers.load(Ordering::Relaxed)
    }

    pub fn manifests_asked(&self) -> usize {
        self.served.manifests.load(Ordering::Relaxed)
    }

    pub async fn stop(&self) {
        self.open();
        assert!(self.lifecycle.stop().await);
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(bytes)))
}

impl Served {
    fn challenge(&self, headers: &HeaderMap) -> Option<Response> {
        let login = self.login.as_ref()?;
        let expected = format!("Basic {}", data_encoding::BASE64.encode(login.as_bytes()));
        let is_right =
            headers.get(header::AUTHORIZATION).is_some_and(|given| given.as_bytes() == expected.as_bytes());
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        let basic = [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")];
        (!is_right).then(|| (StatusCode::UNAUTHORIZED, basic, body).into_response())
    }
}

async fn root(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    served
        .challenge(&headers)
        .unwrap_or_else(|| ([("docker-distribution-api-version", "registry/2.0")], "{}").into_response())
}

async fn manifest_of(
    State(served): State<Arc<Served>>,
    Path((_, reference)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(challenge) = served.challenge(&headers) {
        return challenge;
    }
    let own = digest(&served.manifest);
    if reference != "v" && reference != own {
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    }
    served.manifests.fetch_add(1, Ordering::Relaxed);
    let headers = [(header::CONTENT_TYPE.as_str(), MANIFEST), ("docker-content-digest", own.as_str())];
    (headers, served.manifest.clone()).into_response()
}

async fn blob(
    State(served): State<Arc<Served>>,
    Path((_, asked)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(challenge) = served.challenge(&headers) {
        return challenge;
    }
    let octets = [(header::CONTENT_TYPE, "application/octet-stream")];
    if asked == digest(&served.config) {
        return (octets, served.config.clone()).into_response();
    }
    if asked != digest(&served.layer) {
        return StatusCode::NOT_FOUND.into_response();
    }
    served.layers.fetch_add(1, Ordering::Relaxed);
    let _permit = served.gate.acquire().await.unwrap();
    (octets, served.layer.clone()).into_response()
}
