//! The HTTP client of our own calls: JSON both ways, a deadline on each, one pool a process. [`builder`] is where every
//! client of ours begins, also those that call something else.

use std::time::Duration;

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
    bearer: String,
}

/// Idle connections are dropped well before our own servers drop them.
const POOL_IDLE: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Characters of a refusal's body that are kept.
const REFUSAL_CHARS_MAX: usize = 64 * 1024;

impl Client {
    /// `bearer` goes out with every call.
    pub fn new(bearer: String) -> Self {
        let http = builder().build().expect("the client's settings are constants, and it reads no file");
        Self { http, bearer }
    }

    pub async fn get<T: DeserializeOwned>(&self, url: &str, deadline: Duration) -> Result<T, CallError> {
        self.send(url, self.http.get(url), deadline).await
    }

    pub async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        url: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<T, CallError> {
        self.send(url, self.http.post(url).json(body), deadline).await
    }

    pub async fn put<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        url: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<T, CallError> {
        self.send(url, self.http.put(url).json(body), deadline).await
    }

    pub async fn delete<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        url: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<T, CallError> {
        self.send(url, self.http.delete(url).json(body), deadline).await
    }

    /// A long answer, read as it comes. The deadline is for its head only.
    pub async fn stream(&self, url: &str, deadline: Duration) -> Result<reqwest::Response, CallError> {
        let request = self.http.get(url).bearer_auth(&self.bearer);
        let response = tokio::time::timeout(deadline, request.send())
            .await
            .map_err(|_| CallError::TimedOut { url: url.to_owned() })?
            .map_err(|error| failed(url, &error))?;
        refused(url, response).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        url: &str,
        request: reqwest::RequestBuilder,
        deadline: Duration,
    ) -> Result<T, CallError> {
        let request = request.bearer_auth(&self.bearer).timeout(deadline);
        let response = request.send().await.map_err(|error| failed(url, &error))?;
        let response = refused(url, response).await?;
        let bytes = response.bytes().await.map_err(|error| failed(url, &error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| CallError::Unreadable { url: url.to_owned(), reason: error.to_string() })
    }
}

/// A client as we want them: no proxy of the environment's, no redirects, no CA certificate read before https needs one.
pub fn builder() -> reqwest::ClientBuilder {
    install_crypto();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client_config())
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

async fn refused(url: &str, response: reqwest::Response) -> Result<reqwest::Response, CallError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let mut body = response.text().await.unwrap_or_default();
    if body.len() > REFUSAL_CHARS_MAX {
        body = body.chars().take(REFUSAL_CHARS_MAX).collect();
    }
    Err(CallError::Refused { url: url.to_owned(), status: status.as_u16(), body })
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
