//! The one place that makes the proxy's own answers: status, `Proxy-Status` (RFC 9209), the error's
//! shape, and a page for people. Whatever does not come from here comes from a backend.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY, RETRY_AFTER, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Response, StatusCode};
use jetway_protocol::error::ErrorBody;
use jetway_protocol::ids::BackendId;
use jetway_service::lines::Lines;
use uuid::Uuid;

use super::page;
use crate::forward::response_body::ResponseBody;
use crate::headers;
use crate::problem::{Problem, Wording};

/// A browser asks again after so long.
const PREFLIGHT_SECONDS: u32 = 600;
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// When waiting helps, a client is asked to come back after so long.
const RETRY: Duration = Duration::from_secs(1);
/// Characters of an error's name: Plane's.
const ERROR_ID_CHARS: usize = 14;
/// Warnings of one process: requests to a broken backend in a loop must not fill the disk.
const WARNINGS_MAX: u32 = 20;
static BAD_GATEWAYS: Lines = Lines::new(WARNINGS_MAX, Duration::from_secs(10));

/// Whether the answer is for a person: a browser opens the URL, rather than a script.
pub fn wants_page(method: &Method, headers: &HeaderMap) -> bool {
    let navigates = headers.get("sec-fetch-mode").is_none_or(|mode| mode == "navigate");
    let takes_html =
        headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|a| a.contains("text/html"));
    method == Method::GET && navigates && takes_html
}

/// `brand`: a page for a person instead of JSON, that begins with this. `backend`: whose the
/// request was, once its token was opened.
pub fn problem(
    problem: &Problem,
    backend: Option<&BackendId>,
    brand: Option<&str>,
) -> Response<ResponseBody> {
    let Wording { code, proxy_error, message, retry } = problem.told();
    let id = error_id();
    let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let named = backend.map(tracing::field::display);
    if status == StatusCode::BAD_GATEWAY {
        // The backend's fault, as far as anybody sees from here: an operator is asked about it.
        if let Some(left_out) = BAD_GATEWAYS.tell() {
            tracing::warn!(%id, backend = named, code = code.as_str(), proxy_error, message, left_out, "answered for the backend");
        }
    } else {
        tracing::debug!(%id, backend = named, code = code.as_str(), proxy_error, message, "answered for the backend");
    }
    let end_reason = problem.end_reason();
    let mut policy = None;
    let (content_type, body) = if let Some(brand) = brand {
        let page = if *problem == Problem::Waiting {
            let nonce = Uuid::new_v4().simple().to_string();
            policy = HeaderValue::try_from(page::policy_with(&nonce)).ok();
            page::waiting(brand, &nonce)
        } else {
            page::render(status, &message, retry, &id, brand)
        };
        ("text/html; charset=utf-8", page)
    } else {
        let body = ErrorBody {
            id,
            kind: code.kind(),
            message,
            code,
            retry_after_ms: retry.then(|| u64::try_from(RETRY.as_millis()).unwrap_or(u64::MAX)),
            drones: Vec::new(),
            end_reason,
            output: None,
            backend_id: None,
        };
        ("application/json", serde_json::to_string(&body).unwrap_or_default())
    };
    let mut response = own(status, content_type, body.into());
    if retry {
        response.headers_mut().insert(RETRY_AFTER, RETRY.as_secs().into());
    }
    if let Some(policy) = policy {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    mark_with(response.headers_mut(), proxy_error);
    response
}

/// Says in an answer's headers that the proxy made it, and why.
pub fn mark(headers: &mut HeaderMap, problem: &Problem) {
    mark_with(headers, problem.told().proxy_error);
}

fn mark_with(headers: &mut HeaderMap, proxy_error: &str) {
    let mark = HeaderValue::try_from(format!("jetway; error={proxy_error}"));
    headers.insert(PROXY_STATUS, mark.unwrap_or(HeaderValue::from_static("jetway")));
}

/// The answer to a waiting page.
pub fn stage(stage: &serde_json::Value) -> Response<ResponseBody> {
    own(StatusCode::OK, page::STAGE_TYPE, stage.to_string().into())
}

/// `/ready`, for balancers.
pub fn ready(is_ready: bool) -> Response<ResponseBody> {
    let (status, text) =
        if is_ready { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") };
    own(status, "text/plain", Bytes::from_static(text.as_bytes()))
}

/// For an issuer of certificates (RFC 8555 §8.3).
pub fn shown(text: String) -> Response<ResponseBody> {
    own(StatusCode::OK, "application/octet-stream", text.into())
}

/// `/`, where a redirect is set.
pub fn redirect(location: &HeaderValue) -> Response<ResponseBody> {
    let mut response = own(StatusCode::MOVED_PERMANENTLY, "text/plain", Bytes::new());
    response.headers_mut().insert(LOCATION, location.clone());
    response
}

/// To a page that asks before it sends something. Which pages may is decided when they do, by the
/// cookie that comes with that.
pub fn preflight(origin: &HeaderValue, asked: &HeaderMap) -> Response<ResponseBody> {
    let mut response = own(StatusCode::NO_CONTENT, "text/plain", Bytes::new());
    let headers = response.headers_mut();
    headers::guard::allow(headers, origin);
    for (wanted, allowed) in [
        (ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_ALLOW_METHODS),
        (ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_ALLOW_HEADERS),
    ] {
        if let Some(value) = asked.get(&wanted) {
            headers.insert(allowed, value.clone());
        }
        headers.append(VARY, HeaderValue::from(wanted));
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS.into());
    response
}

/// The same by HTTPS, whatever the method (RFC 9110 §15.4.9).
pub fn moved(location: &HeaderValue) -> Response<ResponseBody> {
    let mut response = own(StatusCode::PERMANENT_REDIRECT, "text/plain", Bytes::new());
    response.headers_mut().insert(LOCATION, location.clone());
    response
}

pub(super) fn own(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, page::POLICY),
        (PROXY_STATUS, "jetway"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers::allow_every_origin(headers);
    response
}

fn error_id() -> String {
    let mut id = Uuid::new_v4().simple().to_string();
    id.truncate(ERROR_ID_CHARS);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::unwritable;

    #[test]
    fn who_gets_a_page() {
        type Lines = &'static [(&'static str, &'static str)];
        let table: &[(Method, Lines, bool)] = &[
            (Method::GET, &[("accept", "text/html,*/*;q=0.8")], true),
            (Method::GET, &[("accept", "text/html"), ("sec-fetch-mode", "navigate")], true),
            (Method::GET, &[("accept", "text/html"), ("sec-fetch-mode", "websocket")], false),
            (Method::GET, &[("accept", "*/*")], false),
            (Method::GET, &[], false),
            (Method::POST, &[("accept", "text/html")], false),
        ];
        for (method, lines, expect) in table {
            let line = |&(name, value): &(&str, &str)| {
                (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
            };
            let headers: HeaderMap = lines.iter().map(line).collect();
            assert_eq!(wants_page(method, &headers), *expect, "{method} {lines:?}");
        }
    }

    #[test]
    fn every_answer_says_who_made_it_and_how_to_go_on() {
        let answer = problem(&Problem::NotReady, None, None);
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(answer.headers()[PROXY_STATUS], "jetway; error=connection_timeout");
        assert_eq!(answer.headers()[RETRY_AFTER], "1");
        assert_eq!(answer.headers()[REFERRER_POLICY], "no-referrer");

        let answer = problem(&Problem::TokenExpired, None, Some(""));
        assert_eq!(answer.status(), StatusCode::GONE);
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(!answer.headers().contains_key(RETRY_AFTER));
    }

    /// Every warning, in one line.
    #[derive(Clone, Default)]
    struct Warnings(std::sync::Arc<parking_lot::Mutex<Vec<String>>>);

    struct Line(String);

    impl tracing::field::Visit for Line {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            self.0 += &format!(" {field}={value:?}");
        }
    }

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() <= tracing::Level::WARN
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let mut line = Line(String::new());
            event.record(&mut line);
            self.0.lock().push(line.0);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn a_502_is_one_line_in_the_log_that_names_the_backend_and_other_answers_are_none() {
        let (warnings, backend) = (Warnings::default(), "b-7".parse().unwrap());
        tracing::subscriber::with_default(warnings.clone(), || {
            for (answered, status) in [
                (Problem::Refused, 502),
                (Problem::ConnectTimeout, 502),
                (Problem::Terminated, 502),
                (Problem::BadAnswer, 502),
                (Problem::UnaskedUpgrade, 502),
                (Problem::NotSwitched, 502),
                (Problem::TooManyInterim, 502),
                (Problem::BadBody, 400),
                (Problem::WrongHost, 404),
                (Problem::Misdirected("elsewhere"), 421),
                (Problem::WrongOrigin, 403),
                (Problem::PortUnknown(Vec::new()), 404),
                (Problem::NotReady, 504),
                (Problem::TokenInvalid, 410),
            ] {
                warnings.0.lock().clear();
                let answer = problem(&answered, Some(&backend), None);
                let said = warnings.0.lock().clone();
                match (status, said.as_slice()) {
                    (502, [line]) => {
                        let error = answer.headers()[PROXY_STATUS].to_str().unwrap();
                        let error = error.rsplit_once('=').unwrap().1;
                        assert!(line.contains("backend=b-7") && line.contains(error), "{line}");
                    }
                    (502, other) => panic!("{answered:?}: {other:?}"),
                    (_, lines) => assert!(lines.is_empty(), "{answered:?}: {lines:?}"),
                }
            }
            warnings.0.lock().clear();
            for _ in 0..1000 {
                problem(&Problem::Refused, Some(&backend), None);
            }
            let refused = warnings.0.lock().len();
            let reason = headers::Unwritable(PROXY_STATUS);
            for _ in 0..1000 {
                assert!(matches!(unwritable(&backend, &reason), Problem::Internal(_)));
            }
            let untold = warnings.0.lock().len() - refused;
            for lines in [refused, untold] {
                assert!(
                    (1..=2 * WARNINGS_MAX as usize).contains(&lines),
                    "{lines} lines, though a period may have ended meanwhile"
                );
            }
        });
    }
}
