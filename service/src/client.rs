//! The HTTP client of our own calls: JSON both ways, a deadline on each, one pool a process. Calls over plain HTTP go over
//! connections of its own ([`wire`]); long answers, and https, are reqwest's. [`builder`] is where every such client of ours
//! begins, also those that call something else.

mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::tls;
pub use crate::tls::install_crypto;

/// What became of a call. Only [`CallError::NotSent`] proves that the other side never saw it.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("no connection to {url}: {reason}")]
    NotSent { url: String, reason: String },
    #[error("no answer from {url} in time")]
    TimedOut { url: String },
    #[error("the connection to {url} broke: {reason}")]
    Broken { url: String, reason: String },
    /// It answered, and not with 2xx.
    #[error("{url} answered {status}: {body}")]
    Refused { url: String, status: u16, body: String },
    #[error("{url} answered with something unexpected: {reason}")]
    Unreadable { url: String, reason: String },
}

impl CallError {
    /// The refusal's body, if it was one and reads as `T`.
    pub fn refusal<T: DeserializeOwned>(&self) -> Option<(u16, T)> {
        match self {
            CallError::Refused { status, body, .. } => Some((*status, serde_json::from_str(body).ok()?)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    wire: Arc<wire::Wire>,
    authorization: HeaderValue,
}

/// Idle connections are dropped well before our own servers drop them.
const POOL_IDLE: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Characters of a refusal's body that are kept.
const REFUSAL_CHARS_MAX: usize = 64 * 1024;

impl Client {
    /// `bearer`, which is ASCII, goes out with every call.
    pub fn new(bearer: String) -> Self {
        let http = builder().build().expect("the client's settings are constants, and it reads no file");
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {bearer}")).expect("a credential of ours is ASCII");
        authorization.set_sensitive(true);
        Self { http, wire: Arc::default(), authorization }
    }

    pub async fn get<T: DeserializeOwned>(&self, url: &str, deadline: Duration) -> Result<T, CallError> {
        self.send(url, Method::GET, None, deadline).await
    }

    pub async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        url: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<T, CallError> {
        self.send(url, Method::POST, Some(json(url, body)?), deadline).await
    }

    pub async fn put<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        url: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<T, CallError> {
        self.send(url, Method::PUT, Some(json(url, body)?), deadline).await
    }

    pub async fn delete<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        url: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<T, CallError> {
        self.send(url, Method::DELETE, Some(json(url, body)?), deadline).await
    }

    /// A long answer, read as it comes. The deadline is for its head only.
    pub async fn stream(&self, url: &str, deadline: Duration) -> Result<reqwest::Response, CallError> {
        let request = self.http.get(url).header(http::header::AUTHORIZATION, self.authorization.clone());
        let response = tokio::time::timeout(deadline, request.send())
            .await
            .map_err(|_| CallError::TimedOut { url: url.to_owned() })?
            .map_err(|error| failed(url, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        Err(refused(url, status, body))
    }

    async fn send<T: DeserializeOwned>(
        &self,
        url: &str,
        method: Method,
        body: Option<Bytes>,
        deadline: Duration,
    ) -> Result<T, CallError> {
        let (status, bytes) = match wire::parts(url) {
            Some(to) => {
                let call = self.wire.exchange(method, to, &self.authorization, body);
                let answer = tokio::time::timeout(deadline, call).await;
                answer.map_err(|_| CallError::TimedOut { url: url.to_owned() })?.map_err(|failure| {
                    let url = url.to_owned();
                    match failure {
                        wire::Failure::NotSent(reason) => CallError::NotSent { url, reason },
                        wire::Failure::Broken(reason) => CallError::Broken { url, reason },
                    }
                })?
            }
            None => self.send_otherwise(url, method, body, deadline).await?,
        };
        if !status.is_success() {
            return Err(refused(url, status, String::from_utf8_lossy(&bytes).into_owned()));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| CallError::Unreadable { url: url.to_owned(), reason: error.to_string() })
    }

    async fn send_otherwise(
        &self,
        url: &str,
        method: Method,
        body: Option<Bytes>,
        deadline: Duration,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let mut request = self.http.request(method, url).timeout(deadline);
        request = request.header(http::header::AUTHORIZATION, self.authorization.clone());
        if let Some(body) = body {
            request = request.header(http::header::CONTENT_TYPE, "application/json").body(body);
        }
        let response = request.send().await.map_err(|error| failed(url, &error))?;
        let status = response.status();
        Ok((status, response.bytes().await.map_err(|error| failed(url, &error))?))
    }
}

/// Our own messages always become JSON.
fn json<B: Serialize + ?Sized>(url: &str, body: &B) -> Result<Bytes, CallError> {
    let bytes = serde_json::to_vec(body);
    let unwritable =
        |error: serde_json::Error| CallError::NotSent { url: url.to_owned(), reason: error.to_string() };
    bytes.map(Bytes::from).map_err(unwritable)
}

/// A client as we want them: no proxy of the environment's, no redirects, no CA certificate read before https needs one.
pub fn builder() -> reqwest::ClientBuilder {
    builder_with(tls::client_config())
}

/// The same for a server whose certificate is checked against the CA certificates in `pem` alone.
pub fn builder_trusting(pem: &[u8]) -> Result<reqwest::ClientBuilder, tls::NoCa> {
    Ok(builder_with(tls::client_config_trusting(pem)?))
}

fn builder_with(tls: rustls::ClientConfig) -> reqwest::ClientBuilder {
    install_crypto();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .pool_idle_timeout(POOL_IDLE)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
}

/// What went wrong at the bottom of it: the outer layers only say that a request failed.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    // How rustls introduces what it was told by others.
    text.strip_prefix("other error: ").map(str::to_owned).unwrap_or(text)
}

fn refused(url: &str, status: StatusCode, mut body: String) -> CallError {
    if body.len() > REFUSAL_CHARS_MAX {
        body = body.chars().take(REFUSAL_CHARS_MAX).collect();
    }
    CallError::Refused { url: url.to_owned(), status: status.as_u16(), body }
}

fn failed(url: &str, error: &reqwest::Error) -> CallError {
    let url = url.to_owned();
    if error.is_connect() {
        CallError::NotSent { url, reason: root_cause(error) }
    } else if error.is_timeout() {
        CallError::TimedOut { url }
    } else {
        CallError::Broken { url, reason: root_cause(error) }
    }
}
