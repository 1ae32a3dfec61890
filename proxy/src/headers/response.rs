//! A client's headers: the backend's without those that concern other sessions, and ours.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CONNECTION,
    HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY, SEC_WEBSOCKET_ACCEPT, SET_COOKIE, UPGRADE,
};

use super::cookies;
use super::fields::{remove_nominated, remove_where};
use super::origin::Shared;
use super::rules::{self, InAnswer};

/// Plane's name, kept for clients that were written for it.
pub(super) const BACKEND_ID: HeaderName = HeaderName::from_static("x-plane-backend-id");

/// An application that says one of these decides for itself.
pub(super) static CORS: [HeaderName; 3] =
    [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_HEADERS];
/// Where it says none.
pub(super) const EVERY_ORIGIN: [&str; 3] = ["*", "*", "*, Authorization"];
/// The URL has the token in it: no other site is to see more of it than its origin. Not
/// `no-referrer`, which takes the Origin from forms as well, and with it what applications know
/// cross-site requests by.
pub(super) const POLICY: &str = "strict-origin";

/// The part of the connection that becomes another protocol's with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switched {
    /// The whole connection.
    Connection,
    /// One stream of many.
    Stream,
}

/// From the backend's headers to the client's. `backend`: its id. `switched`: the answer is the 101
/// that was asked for. `shared` is `None` where the session has an origin of its own.
pub fn to_client(
    headers: &mut HeaderMap,
    backend: &HeaderValue,
    shared: Option<&Shared<'_>>,
    switched: Option<Switched>,
) {
    let protocol = switched.and_then(|_| headers.get(UPGRADE).cloned());
    remove_nominated(headers);
    let (mut has_cookies, mut has_policy, mut has_cors) = (false, false, false);
    remove_where(headers, |name| {
        let rule = rules::in_answer(name.as_str().as_bytes());
        has_cookies |= rule == InAnswer::Cookie;
        has_policy |= rule == InAnswer::Policy;
        has_cors |= rule == InAnswer::Cors;
        match rule {
            InAnswer::Removed | InAnswer::Connection | InAnswer::Encoding => true,
            InAnswer::OwnOrigin => shared.is_some(),
            InAnswer::Passes | InAnswer::Cookie | InAnswer::Policy | InAnswer::Cors => false,
            InAnswer::Id | InAnswer::Length | InAnswer::Date => false,
        }
    });
    match (switched, protocol) {
        (Some(Switched::Connection), Some(protocol)) => {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocol);
        }
        (Some(Switched::Stream), _) => {
            // The key was ours, and so is the answer to it.
            headers.remove(SEC_WEBSOCKET_ACCEPT);
        }
        _ => {}
    }
    headers.insert(BACKEND_ID, backend.clone());
    if has_cookies {
        confine_cookies(headers, shared);
    }
    if !has_policy {
        headers.insert(REFERRER_POLICY, HeaderValue::from_static(POLICY));
    }
    if !has_cors {
        allow_every_origin(headers);
    }
}

/// Tokens are in the path, not in cookies: another origin learns nothing that it could not ask for
/// itself.
pub fn allow_every_origin(headers: &mut HeaderMap) {
    for (name, value) in CORS.iter().zip(EVERY_ORIGIN) {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn confine_cookies(headers: &mut HeaderMap, shared: Option<&Shared<'_>>) {
    let set: Vec<HeaderValue> =
        headers.get_all(SET_COOKIE).iter().filter_map(|cookie| cookies::confined(cookie, shared)).collect();
    headers.remove(SET_COOKIE);
    for cookie in set {
        headers.append(SET_COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::super::map;
    use super::*;

    fn answered(shared: bool, lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = map(lines);
        let path = Shared { prefix: "/tok", asked: "/tok/a", path_is_kept: false };
        to_client(&mut headers, &HeaderValue::from_static("b-1"), shared.then_some(&path), None);
        headers
    }

    #[test]
    fn an_answer_gets_its_id_and_open_cors_unless_it_has_its_own() {
        let headers =
            answered(true, &[("connection", "x-a"), ("x-a", "1"), ("server", "app"), ("upgrade", "h2c")]);
        assert_eq!(headers[BACKEND_ID], "b-1");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "*, Authorization");
        assert_eq!(headers["server"], "app");
        for gone in ["x-a", "upgrade", "connection"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        for own in ["access-control-allow-methods", "access-control-allow-headers"] {
            let headers = answered(true, &[(own, "GET")]);
            assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), "{own}");
        }
    }

    #[test]
    fn a_switch_is_told_to_a_connection_and_not_to_a_stream() {
        let lines = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "a")];
        for (switched, kept) in [(Switched::Connection, true), (Switched::Stream, false)] {
            let mut headers = map(&lines);
            to_client(&mut headers, &HeaderValue::from_static("b-1"), None, Some(switched));
            for name in ["connection", "upgrade", "sec-websocket-accept"] {
                assert_eq!(headers.contains_key(name), kept, "{switched:?} {name}");
            }
        }
    }

    #[test]
    fn on_a_shared_origin_nothing_is_said_for_all_of_it() {
        let lines = [
            ("Service-Worker-Allowed", "/"),
            ("Clear-Site-Data", "\"*\""),
            ("NEL", "{}"),
            ("Report-To", "{}"),
            ("Alt-Svc", "h2=\"evil:443\""),
            ("Strict-Transport-Security", "max-age=1"),
            ("WWW-Authenticate", "Basic realm=\"your password\""),
            ("Use-As-Dictionary", "match=\"/*\""),
            ("Accept-CH", "Sec-CH-UA-Model"),
            ("Set-Login", "logged-out"),
            ("Origin-Agent-Cluster", "?0"),
            ("Set-Cookie", "a=b; Path=/; Domain=example.com"),
            ("Set-Cookie", "c=d"),
        ];
        let whole = &lines[..lines.len() - 2];
        let headers = answered(true, &lines);
        for (name, _) in whole {
            assert!(!headers.contains_key(*name), "{name}");
        }
        let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(cookies, ["a=b; Path=/tok", "c=d; Path=/tok"]);

        let headers = answered(false, &lines);
        for (name, value) in whole {
            assert_eq!(headers[*name], value, "an origin of its own is the session's");
        }
        let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(cookies, ["a=b; Path=/", "c=d"], "but not its parent domain");
    }

    #[test]
    fn no_application_speaks_with_the_proxys_mark() {
        for mark in ["jetway", "jetway; error=http_request_denied", "other, \"jetway\"; error=a", "cdn"] {
            let lines = [("Proxy-Status", "cdn"), ("proxy-status", mark)];
            for shared in [true, false] {
                assert!(!answered(shared, &lines).contains_key("proxy-status"), "{mark}");
            }
        }
    }

    #[test]
    fn a_token_does_not_go_out_as_a_referrer_unless_the_application_says_so() {
        assert_eq!(answered(true, &[])[REFERRER_POLICY], "strict-origin");
        assert_eq!(answered(false, &[])[REFERRER_POLICY], "strict-origin");
        assert_eq!(answered(true, &[("referrer-policy", "same-origin")])[REFERRER_POLICY], "same-origin");
    }
}
