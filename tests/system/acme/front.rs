//! What stands before pebble for what pebble does not have: when to renew (ARI, RFC 9773), and rate limits. Everything else goes through.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64URL_NOPAD;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::issuer::Issuer;

pub struct Front {
    port: u16,
    pub switches: Arc<Switches>,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Switches {
    http: reqwest::Client,
    pebble: u16,
    port: u16,
    /// Orders that are refused from now on.
    pub limited: AtomicUsize,
    /// When it would like renewals; `None`: it does not say.
    pub window: Mutex<Option<(String, String)>>,
    /// What orders were said to replace.
    pub replaced: Mutex<Vec<String>>,
    pub asked_when: AtomicUsize,
}

impl Front {
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    pub async fn start(issuer: &Issuer, directory: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let switches = Arc::new(Switches {
            http: issuer.http().clone(),
            pebble: issuer.port,
            port,
            limited: AtomicUsize::new(0),
            window: Mutex::new(None),
            replaced: Mutex::default(),
            asked_when: AtomicUsize::new(0),
        });
        let chain = CertificateDer::from_pem_file(directory.join("issuer.pem"))?;
        let key = PrivateKeyDer::from_pem_file(directory.join("issuer.key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let router = Router::new().fallback(through).with_state(switches.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let serving = hyper::server::conn::http1::Builder::new();
                        let _ended = serving.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
        });
        Ok(Self { port, switches, task })
    }

    pub fn directory_url(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }
}

async fn through(State(front): State<Arc<Switches>>, request: Request) -> Response {
    match answer(&front, request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}

async fn answer(front: &Switches, request: Request) -> anyhow::Result<Response> {
    let (parts, body) = request.into_parts();
    let (path, is_order) = (parts.uri.path().to_owned(), parts.uri.path() == "/order-plz");
    if path.starts_with("/renewal/") {
        front.asked_when.fetch_add(1, Ordering::Relaxed);
        let window = front.window.lock().expect("no panic").clone();
        let (start, end) = window.context("nothing is said")?;
        let body = json!({ "suggestedWindow": { "start": start, "end": end } }).to_string();
        return Ok(([(header::RETRY_AFTER, "60")], body).into_response());
    }
    if is_order && front.limited.load(Ordering::Relaxed) > 0 {
        front.limited.fetch_sub(1, Ordering::Relaxed);
        let problem = json!({
            "type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates", "status": 429,
        });
        let headers = [(header::RETRY_AFTER, "7200"), (header::CONTENT_TYPE, "application/problem+json")];
        return Ok((StatusCode::TOO_MANY_REQUESTS, headers, problem.to_string()).into_response());
    }
    let body = axum::body::to_bytes(body, 1 << 20).await?;
    let replaces = if is_order { said_to_replace(&body) } else { None };
    let (status, mut headers, mut answered) =
        forwarded(front, parts.method, &path, parts.headers, body).await?;
    if path == "/dir" {
        answered["renewalInfo"] = json!(format!("https://127.0.0.1:{}/renewal", front.port));
    }
    // One whose nonce was refused comes again.
    if let Some(replaces) = replaces.filter(|_| status.is_success()) {
        answered["replaces"] = json!(replaces);
        front.replaced.lock().expect("no panic").push(replaces);
    }
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRANSFER_ENCODING);
    let text = match answered {
        Value::String(text) => text,
        json => json.to_string(),
    };
    let mut response = Response::new(Body::from(text));
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Ok(response)
}

/// As pebble answers it; a text that is no JSON as a string.
async fn forwarded(
    front: &Switches,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> anyhow::Result<(StatusCode, HeaderMap, Value)> {
    // With the Host that it was asked under: what pebble names is then asked here, too.
    let url = format!("https://127.0.0.1:{}{path}", front.pebble);
    let answer = front.http.request(method, url).headers(headers).body(body).send().await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let text = answer.text().await?;
    Ok((status, headers, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

fn said_to_replace(body: &[u8]) -> Option<String> {
    let signed: Value = serde_json::from_slice(body).ok()?;
    let payload = BASE64URL_NOPAD.decode(signed["payload"].as_str()?.as_bytes()).ok()?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    Some(payload["replaces"].as_str()?.to_owned())
}
