//! What a client gets of an answer, and either side of trailers: nothing of the connection behind,
//! nothing that a browser would apply to other sessions, and all the rest as it was.

use http::header::{HeaderMap, HeaderValue};

use super::cookies;
use super::headers::{is_of_one_connection, is_ours, nominated, values};
use crate::headers::{self, Shared, Switched, to_client};
use crate::route::BackendTarget;

const BACKEND: &str = "b-1";
const CORS: [&str; 3] =
    ["access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers"];

pub fn answer(target: &BackendTarget, before: &HeaderMap) {
    for shared in [Some(&target.shared()), None] {
        for switched in [None, Some(Switched::Connection), Some(Switched::Stream)] {
            let mut after = before.clone();
            to_client(&mut after, &HeaderValue::from_static(BACKEND), shared, switched);
            said(before, &after, shared, switched);
        }
    }
}

/// RFC 9110 §6.5.1, and who somebody is.
pub fn trailers(before: &HeaderMap) {
    let mut after = before.clone();
    headers::trailers(&mut after);
    let gone = nominated(before);
    let never = |name: &str| {
        is_of_one_connection(name)
            || is_ours(name)
            || name == "proxy-status"
            || gone.contains(name)
            || ["content-length", "host", "trailer", "te", "authorization", "cookie", "set-cookie"]
                .contains(&name)
            || ["content-encoding", "content-type"].contains(&name)
    };
    for name in before.keys().map(|name| name.as_str()) {
        let expect = if never(name) { Vec::new() } else { values(before, name) };
        assert_eq!(values(&after, name), expect, "{name} of {before:?}");
    }
    assert!(after.keys().all(|name| before.contains_key(name)), "{after:?}");
}

pub fn said(before: &HeaderMap, after: &HeaderMap, shared: Option<&Shared<'_>>, switched: Option<Switched>) {
    let gone = nominated(before);
    let given = |name: &str| if gone.contains(name) { Vec::new() } else { values(before, name) };
    assert_eq!(values(after, "x-plane-backend-id"), [BACKEND.as_bytes()]);
    let policy = given("referrer-policy");
    let policy = if policy.is_empty() { vec![&b"strict-origin"[..]] } else { policy };
    assert_eq!(values(after, "referrer-policy"), policy, "{before:?}");
    let has_cors = CORS.iter().any(|name| !given(name).is_empty());
    for (name, open) in CORS.into_iter().zip(["*", "*", "*, Authorization"]) {
        let expect = if has_cors { given(name) } else { vec![open.as_bytes()] };
        assert_eq!(values(after, name), expect, "{name} of {before:?}");
    }
    let protocol = before.get("upgrade").filter(|_| switched == Some(Switched::Connection));
    let expect: &[&[u8]] = if protocol.is_some() { &[b"upgrade"] } else { &[] };
    assert_eq!(values(after, "connection"), expect, "{before:?}");
    assert_eq!(values(after, "upgrade"), protocol.map_or(Vec::new(), |protocol| vec![protocol.as_bytes()]));
    cookies::confined(&given("set-cookie"), &values(after, "set-cookie"), shared);
    the_rest_is_as_it_was(before, after, shared.is_some(), switched);
}

fn the_rest_is_as_it_was(before: &HeaderMap, after: &HeaderMap, is_shared: bool, switched: Option<Switched>) {
    let gone = nominated(before);
    let is_checked = |name: &str| {
        CORS.contains(&name)
            || matches!(
                name,
                "x-plane-backend-id" | "referrer-policy" | "connection" | "upgrade" | "set-cookie"
            )
    };
    for name in before.keys().chain(after.keys()).map(|name| name.as_str()).filter(|name| !is_checked(name)) {
        let is_taken = gone.contains(name)
            || is_of_one_connection(name)
            || name == "proxy-status"
            || (is_shared && is_for_the_whole_origin(name))
            || (switched == Some(Switched::Stream) && name == "sec-websocket-accept");
        let expect = if is_taken { Vec::new() } else { values(before, name) };
        assert_eq!(values(after, name), expect, "{name} of {before:?}");
    }
}

fn is_for_the_whole_origin(name: &str) -> bool {
    matches!(
        name,
        "service-worker-allowed"
            | "accept-ch"
            | "clear-site-data"
            | "critical-ch"
            | "expect-ct"
            | "origin-agent-cluster"
            | "public-key-pins"
            | "sec-session-registration"
            | "secure-session-registration"
            | "set-login"
            | "use-as-dictionary"
            | "www-authenticate"
            | "nel"
            | "report-to"
            | "alt-svc"
            | "strict-transport-security"
    )
}
