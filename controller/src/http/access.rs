//! Who may use `/ctrl`. With an API key: whoever presents it. Without one, on loopback: programs of this machine, but no
//! web page, not even one whose host name was rebound to 127.0.0.1 (its Host header gives it away).

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use jetway_protocol::error::Code;
use subtle::ConstantTimeEq;

use super::extract::is_json;
use crate::app::{Access, App};
use crate::error::{ApiError, ApiResult, shown};

pub async fn guard(State(app): State<App>, request: Request, next: Next) -> ApiResult<Response> {
    check(&app, &request)?;
    Ok(next.run(request).await)
}

/// Routes outside the API: on loopback, under a name of this machine alone. What pages may do there
/// is theirs to say.
pub async fn guard_host(State(app): State<App>, request: Request, next: Next) -> ApiResult<Response> {
    if let Access::Loopback { public_host } = &app.access {
        check_host(&request, public_host.as_deref())?;
    }
    Ok(next.run(request).await)
}

pub fn check(app: &App, request: &Request) -> ApiResult<()> {
    match &app.access {
        Access::Key(key) => check_key(request.headers(), key),
        Access::Loopback { public_host } => check_loopback(request, public_host.as_deref()),
        Access::Open => Ok(()),
    }
}

fn check_key(headers: &HeaderMap, key: &str) -> ApiResult<()> {
    let given =
        headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if given.is_some_and(|given| given.ct_eq(key.as_bytes()).into()) {
        return Ok(());
    }
    Err(ApiError::new(Code::Unauthorized, "this needs the header Authorization: Bearer <the API key>"))
}

fn forbidden<T>(message: impl Into<String>) -> ApiResult<T> {
    Err(ApiError::new(Code::ForbiddenOrigin, message.into()))
}

/// In lower case.
fn check_host(request: &Request, public_host: Option<&str>) -> ApiResult<String> {
    let host = request
        .uri()
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| request.headers().get(header::HOST).and_then(|host| host.to_str().ok()));
    let Some(host) = host.map(str::to_ascii_lowercase) else {
        return forbidden("the request has no Host header");
    };
    if !is_known(&host, public_host) {
        return forbidden(format!(
            "the Host {} is not one of this controller; use localhost, or set an API key",
            shown(&host)
        ));
    }
    Ok(host)
}

fn check_loopback(request: &Request, public_host: Option<&str>) -> ApiResult<()> {
    let host = check_host(request, public_host)?;
    let headers = request.headers();
    for origin in headers.get_all(header::ORIGIN) {
        if !origin.to_str().is_ok_and(|origin| is_own(&origin.to_ascii_lowercase(), &host, public_host)) {
            return forbidden("web pages of another origin may not call this");
        }
    }
    let has_body = request.body().size_hint().exact() != Some(0);
    let json = headers.get(header::CONTENT_TYPE).is_some_and(|value| is_json(value.as_bytes()));
    if has_body && !json {
        return Err(ApiError::new(
            Code::UnsupportedMediaType,
            "a body must be JSON, with the header Content-Type: application/json",
        ));
    }
    Ok(())
}

/// This machine's own names, with any port, or the host of the public URL.
fn is_known(host: &str, public_host: Option<&str>) -> bool {
    public_host == Some(host) || is_this_machine(name_and_port(host).0)
}

/// Whether a page of this origin is the controller's own: it came from where the request goes to, or from the public
/// URL. Another port is another origin: sessions' own pages are served on this machine, too, by the proxy.
fn is_own(origin: &str, host: &str, public_host: Option<&str>) -> bool {
    let Some((scheme, from)) = origin.split_once("://") else { return false };
    let default = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return false,
    };
    let place = |host| {
        let (name, port) = name_and_port(host);
        // This machine's names are one place.
        (if is_this_machine(name) { "localhost" } else { name }, port.unwrap_or(default))
    };
    place(from) == place(host) || public_host.is_some_and(|public| place(from) == place(public))
}

fn name_and_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            (name, Some(port).filter(|port| !port.is_empty()))
        }
        Some(_) | None => (host, None),
    }
}

fn is_this_machine(name: &str) -> bool {
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// The host and port of a URL without a path, if it means this machine.
pub fn host_of_this_machine(url: &str) -> Option<&str> {
    let (_, host) = url.split_once("://")?;
    is_this_machine(name_and_port(host).0).then_some(host)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::testing::{Harness, request};

    #[test]
    fn only_names_of_this_machine_are_known() {
        for known in
            ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]", "[::1]:8080", "jetway.example:443"]
        {
            assert!(is_known(known, Some("jetway.example:443")), "{known}");
        }
        for foreign in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "jetway.example"]
        {
            assert!(!is_known(foreign, Some("jetway.example:443")), "{foreign}");
        }
    }

    #[test]
    fn a_page_is_the_controller_s_own_only_from_the_same_host_and_port() {
        let public = Some("jetway.example");
        for (origin, host) in [
            ("http://localhost:8080", "127.0.0.1:8080"),
            ("http://[::1]:8080", "localhost:8080"),
            ("http://localhost", "localhost:80"),
            ("http://localhost:80", "localhost"),
            ("https://jetway.example", "127.0.0.1:8080"),
            ("https://jetway.example", "jetway.example:443"),
        ] {
            assert!(is_own(origin, host, public), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://localhost:9090", "localhost:8080"),
            ("http://127.0.0.1:9090", "localhost:8080"),
            ("http://localhost", "localhost:8080"),
            ("https://jetway.example:9090", "jetway.example"),
            ("https://s.jetway.example", "jetway.example"),
            ("null", "localhost:8080"),
            ("file://", "localhost:8080"),
            ("", "localhost:8080"),
        ] {
            assert!(!is_own(origin, host, public), "{origin} {host}");
        }
    }

    #[tokio::test]
    async fn on_loopback_a_page_gets_nowhere() {
        let harness = Harness::new().await;
        let try_with = async |name: &str, value: &str| {
            let mut request = request("GET", "/ctrl/status", "");
            request
                .headers_mut()
                .insert(axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            harness.send(request).await
        };
        assert_eq!(try_with("host", "localhost:8080").await.status, 200);
        assert_eq!(try_with("origin", "http://localhost:8080").await.status, 200);
        let session = try_with("origin", "http://localhost:9090").await;
        assert_eq!(session.outcome(), (403, "forbidden_origin".into()), "a session's own page");
        let rebound = try_with("host", "evil.example").await;
        assert_eq!((rebound.status, rebound.json()["code"].as_str()), (403, Some("forbidden_origin")));
        assert_eq!(try_with("origin", "https://evil.example").await.status, 403);
        assert_eq!(try_with("origin", "null").await.status, 403);

        let mut form = request("POST", "/ctrl/b/x/soft-terminate", "a=b");
        form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        assert_eq!(harness.send(form).await.status, 415);
    }

    #[tokio::test]
    async fn with_a_key_only_its_bearer_gets_in() {
        let harness = Harness::with_access(Access::Key("the-key".into())).await;
        let try_with = async |value: Option<&str>| {
            let mut request = axum::http::Request::get("/ctrl/status").header("host", "anything.example");
            if let Some(value) = value {
                request = request.header("authorization", value);
            }
            harness.send(request.body(Body::empty()).unwrap()).await.status
        };
        assert_eq!(try_with(None).await, 401);
        assert_eq!(try_with(Some("Bearer the-kex")).await, 401);
        assert_eq!(try_with(Some("Basic the-key")).await, 401);
        assert_eq!(try_with(Some("Bearer the-key")).await, 200);
        assert_eq!(harness.send(request("GET", "/pub/health", "")).await.status, 200, "/pub is for browsers");
    }
}
