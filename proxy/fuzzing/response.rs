//! What a client gets of an answer, and either side of trailers: nothing of the connection behind,
//! nothing that a browser would apply to other sessions, and all the rest as it was.

use http::header::{HeaderMap, HeaderValue};

use super::cookies;
use super::headers::{is_of_one_connection, is_ours, nominated, values};
use crate::headers::guard::Guard;
use crate::headers::rules::{self, InAnswer};
use crate::headers::{self, Readers, Served, Switched, to_client};
use crate::route::BackendTarget;

const BACKEND: &str = "b-1";
const LISTED: &str = "https://app.example.org";
/// What the host form adds for the session's own pages, and takes off of the application.
const GUARDS: [(&str, &str); 6] = [
    ("cdn-cache-control", "no-store"),
    ("surrogate-control", "no-store"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "private"),
    ("vary", "service-worker"),
    ("content-security-policy", "frame-ancestors 'self' https://app.example.org"),
];
const CORS: [&str; 3] =
    ["access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers"];

pub fn answer(target: &BackendTarget, before: &HeaderMap) {
    let guard = guard();
    for served in [Served::Shared(target.shared()), Served::Alone, Served::Guarded(&guard, &Readers::Own)] {
        for switched in [None, Some(Switched::Connection), Some(Switched::Stream)] {
            let mut after = before.clone();
            to_client(&mut after, &HeaderValue::from_static(BACKEND), &served, switched);
            said(before, &after, &served, switched);
        }
    }
}

pub fn guard() -> Guard {
    Guard::new(&[LISTED.to_owned()])
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

pub fn said(before: &HeaderMap, after: &HeaderMap, served: &Served<'_>, switched: Option<Switched>) {
    let gone = nominated(before);
    let given = |name: &str| if gone.contains(name) { Vec::new() } else { values(before, name) };
    let is_guarded = served.is_guarded();
    assert_eq!(values(after, "x-plane-backend-id"), [BACKEND.as_bytes()]);
    let policy = given("referrer-policy");
    let policy = if policy.is_empty() && !is_guarded { vec![&b"strict-origin"[..]] } else { policy };
    assert_eq!(values(after, "referrer-policy"), policy, "{before:?}");
    let has_cors = is_guarded || CORS.iter().any(|name| !given(name).is_empty());
    for (name, open) in CORS.into_iter().zip(["*", "*", "*, Authorization"]) {
        let expect = if has_cors { given(name) } else { vec![open.as_bytes()] };
        assert_eq!(values(after, name), expect, "{name} of {before:?}");
    }
    let protocol = before.get("upgrade").filter(|_| switched == Some(Switched::Connection));
    let expect: &[&[u8]] = if protocol.is_some() { &[b"upgrade"] } else { &[] };
    assert_eq!(values(after, "connection"), expect, "{before:?}");
    assert_eq!(values(after, "upgrade"), protocol.map_or(Vec::new(), |protocol| vec![protocol.as_bytes()]));
    cookies::confined(&given("set-cookie"), &values(after, "set-cookie"), served.shared());
    site_data(&given("clear-site-data"), &values(after, "clear-site-data"), served);
    guarded(&given, after, served, switched);
    the_rest_is_as_it_was(before, after, served, switched);
}

/// On a shared origin there is none, and in the host form no word for cookies.
fn site_data(given: &[&[u8]], left: &[&[u8]], served: &Served<'_>) {
    if !served.is_guarded() {
        let expect = if served.shared().is_some() { &[] } else { given };
        assert_eq!(left, expect);
        return;
    }
    let words = |lines: &[&[u8]]| -> Vec<Vec<u8>> {
        let words = lines.iter().flat_map(|line| line.split(|byte| *byte == b','));
        words.map(|word| word.trim_ascii().to_ascii_lowercase()).filter(|word| !word.is_empty()).collect()
    };
    let is_free = |word: &Vec<u8>| word != b"\"cookies\"" && word != b"cookies" && !word.contains(&b'*');
    let left = words(left);
    assert!(left.iter().all(is_free), "{left:?}");
    for word in words(given).into_iter().filter(|word| is_free(word) && guard_keeps(word)) {
        assert!(left.contains(&word), "{word:?} of {given:?} is lost");
    }
}

/// A word with odd signs in it may go: no browser knows it.
fn guard_keeps(word: &[u8]) -> bool {
    let letters = word.strip_prefix(b"\"").and_then(|word| word.strip_suffix(b"\""));
    letters.is_some_and(|letters| letters.iter().all(u8::is_ascii_alphabetic))
}

fn guarded<'a>(
    given: &impl Fn(&str) -> Vec<&'a [u8]>,
    after: &HeaderMap,
    served: &Served<'_>,
    switched: Option<Switched>,
) {
    for (name, value) in GUARDS {
        let ours = if switched.is_none() { vec![value.as_bytes()] } else { Vec::new() };
        let is_replaced = rules::in_answer(name.as_bytes()) == InAnswer::Guarded;
        let expect = match served.is_guarded() {
            false => given(name),
            true if is_replaced => ours,
            true => [given(name), ours].concat(),
        };
        assert_eq!(values(after, name), expect, "{name}");
    }
}

fn the_rest_is_as_it_was(
    before: &HeaderMap,
    after: &HeaderMap,
    served: &Served<'_>,
    switched: Option<Switched>,
) {
    let gone = nominated(before);
    let is_checked = |name: &str| {
        CORS.contains(&name)
            || GUARDS.iter().any(|(guard, _)| *guard == name)
            || matches!(
                name,
                "x-plane-backend-id"
                    | "referrer-policy"
                    | "connection"
                    | "upgrade"
                    | "set-cookie"
                    | "clear-site-data"
            )
    };
    for name in before.keys().chain(after.keys()).map(|name| name.as_str()).filter(|name| !is_checked(name)) {
        let is_taken = gone.contains(name)
            || is_of_one_connection(name)
            || name == "proxy-status"
            || outlives_a_session(name)
            || (served.shared().is_some() && is_for_the_whole_origin(name))
            || (served.is_guarded() && name == "cloudflare-cdn-cache-control")
            || (switched == Some(Switched::Stream) && name == "sec-websocket-accept");
        let expect = if is_taken { Vec::new() } else { values(before, name) };
        assert_eq!(values(after, name), expect, "{name} of {before:?}");
    }
}

fn outlives_a_session(name: &str) -> bool {
    matches!(
        name,
        "expect-ct"
            | "nel"
            | "public-key-pins"
            | "report-to"
            | "sec-session-registration"
            | "secure-session-registration"
            | "set-login"
    )
}

fn is_for_the_whole_origin(name: &str) -> bool {
    matches!(
        name,
        "service-worker-allowed"
            | "accept-ch"
            | "critical-ch"
            | "origin-agent-cluster"
            | "use-as-dictionary"
            | "www-authenticate"
            | "alt-svc"
            | "strict-transport-security"
    )
}
