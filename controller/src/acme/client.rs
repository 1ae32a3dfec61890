//! How the issuer is talked to: with a limit on everything, and with an ear for how long it wants to be left alone.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use instant_acme::{Account, AccountBuilder, BodyWrapper, BytesResponse, Error, HttpClient};
use jetway_protocol::time::UnixMicros;
use jetway_service::client;
use jetway_service::tls::NoCa;
use parking_lot::Mutex;

/// From a request to the last byte of its answer.
const CALL_MAX: Duration = Duration::from_secs(20);
/// A chain has a few kilobytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Cheap to clone: one pool of connections.
#[derive(Clone)]
pub struct Issuer {
    http: reqwest::Client,
    /// What the last refusal said of when to come again.
    retry_after: Arc<Mutex<Option<Duration>>>,
}

impl Issuer {
    pub fn new(ca: Option<&[u8]>) -> Result<Self, NoCa> {
        let builder = match ca {
            Some(pem) => client::builder_trusting(pem)?,
            None => client::builder(),
        };
        let http = builder.timeout(CALL_MAX).build().expect("the client's settings are constants");
        Ok(Self { http, retry_after: Arc::default() })
    }

    pub fn account(&self) -> AccountBuilder {
        Account::builder_with_http(Box::new(self.clone()))
    }

    /// Of the last answer, if it was a refusal that said so.
    pub fn retry_after(&self) -> Option<Duration> {
        *self.retry_after.lock()
    }
}

impl HttpClient for Issuer {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let issuer = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            // It is in memory: collecting it cannot fail.
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let request = http::Request::from_parts(parts, body).try_into().map_err(other)?;
            let answer: http::Response<reqwest::Body> =
                issuer.http.execute(request).await.map_err(other)?.into();
            let (parts, body) = answer.into_parts();
            let said = if parts.status.is_success() { None } else { retry_after(&parts.headers) };
            *issuer.retry_after.lock() = said;
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(Error::Other)?;
            Ok(http::Response::from_parts(parts, Full::new(body.to_bytes())).into())
        })
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}

/// Seconds or a date (RFC 9110 §10.2.3).
fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    let now = Duration::from_micros(u64::try_from(UnixMicros::now().0).ok()?);
    Some(at.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_come_again_is_seconds_or_a_date() {
        let of = |text: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(of("120"), Some(120));
        assert_eq!(of("Fri, 31 Dec 1999 23:59:59 GMT"), Some(0));
        assert!(of("Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(|seconds| seconds > 1 << 20));
        assert_eq!(of("soon"), None);
        assert_eq!(of("-1"), None);
    }
}
