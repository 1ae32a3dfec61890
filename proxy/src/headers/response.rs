//! A client's headers: the backend's without those that concern other sessions, and ours.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CONNECTION,
    HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY, SEC_WEBSOCKET_ACCEPT, SET_COOKIE, UPGRADE,
};

use super::cookies;
use super::fields::{remove_nominated, remove_where};
use super::guard;
use super::origin::{Readers, Served, Shared};
use super::own_cookie;
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

const SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// The part of the connection that becomes another protocol's with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switched {
    /// The whole connection.
    Connection,
    /// One stream of many.
    Stream,
}

/// From the backend's headers to the client's. `backend`: its id. `switched`: the answer is the 101
/// that was asked for.
pub fn to_client(
    headers: &mut HeaderMap,
    backend: &HeaderValue,
    served: &Served<'_>,
    switched: Option<Switched>,
) {
    let protocol = switched.and_then(|_| headers.get(UPGRADE).cloned());
    remove_nominated(headers);
    let shared = served.shared();
    let is_framed = matches!(served, Served::Guarded(_, Readers::Frame));
    let (mut has_cookies, mut has_policy, mut has_cors, mut has_site_data) = (false, false, false, false);
    remove_where(headers, |name| {
        let rule = rules::in_answer(name.as_str().as_bytes());
        has_cookies |= rule == InAnswer::Cookie;
        has_policy |= rule == InAnswer::Policy;
        has_cors |= rule == InAnswer::Cors;
        has_site_data |= rule == InAnswer::SiteData;
        match rule {
            InAnswer::Removed | InAnswer::Connection | InAnswer::Encoding => true,
            InAnswer::OwnOrigin | InAnswer::SiteData => shared.is_some(),
            InAnswer::Guarded => served.is_guarded() && !(is_framed && *name == guard::RESOURCE_POLICY),
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
    if let Served::Guarded(guard, readers) = served {
        if has_site_data {
            keep_cookies(headers);
        }
        // A switch has no answer that anybody keeps or shows.
        if switched.is_none() {
            guard.tell(headers, readers);
            guard::open(headers, readers, has_cors);
        }
        return;
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

/// The proxy's own cookies are not an application's to set.
fn confine_cookies(headers: &mut HeaderMap, shared: Option<&Shared<'_>>) {
    let theirs =
        headers.get_all(SET_COOKIE).iter().filter(|cookie| !own_cookie::is_set_by(cookie.as_bytes()));
    let set: Vec<HeaderValue> = theirs.filter_map(|cookie| cookies::confined(cookie, shared)).collect();
    replace(headers, SET_COOKIE, set);
}

fn keep_cookies(headers: &mut HeaderMap) {
    let kept = headers.get_all(SITE_DATA).iter().filter_map(guard::keeping_cookies).collect();
    replace(headers, SITE_DATA, kept);
}

fn replace(headers: &mut HeaderMap, name: HeaderName, values: Vec<HeaderValue>) {
    headers.remove(&name);
    for value in values {
        headers.append(&name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::map;
    use super::*;

    fn answered(shared: bool, lines: &[(&str, &str)]) -> HeaderMap {
        let path = Shared { prefix: "/tok", asked: "/tok/a", path_is_kept: false };
        served(&if shared { Served::Shared(path) } else { Served::Alone }, lines)
    }

    fn served(served: &Served<'_>, lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = map(lines);
        to_client(&mut headers, &HeaderValue::from_static("b-1"), served, None);
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
            to_client(&mut headers, &HeaderValue::from_static("b-1"), &Served::Alone, Some(switched));
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
            ("Alt-Svc", "h2=\"evil:443\""),
            ("Strict-Transport-Security", "max-age=1"),
            ("WWW-Authenticate", "Basic realm=\"your password\""),
            ("Use-As-Dictionary", "match=\"/*\""),
            ("Accept-CH", "Sec-CH-UA-Model"),
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
    fn nothing_outlives_a_session_on_its_host() {
        let lines = [
            ("NEL", "{}"),
            ("Report-To", "{}"),
            ("Set-Login", "logged-out"),
            ("Secure-Session-Registration", "(ES256);path=\"/x\""),
            ("Public-Key-Pins", "max-age=1"),
            ("Expect-CT", "max-age=1"),
        ];
        let guard = guard::Guard::new(&[]);
        for form in [Served::Alone, Served::Guarded(&guard, &Readers::Own)] {
            let headers = served(&form, &lines);
            assert!(lines.iter().all(|(name, _)| !headers.contains_key(*name)), "{headers:?}");
        }
    }

    #[test]
    fn in_the_host_form_the_guard_speaks() {
        let guard = guard::Guard::new(&[]);
        let lines = [
            ("cross-origin-resource-policy", "cross-origin"),
            ("cdn-cache-control", "max-age=60"),
            ("surrogate-control", "max-age=60"),
            ("cloudflare-cdn-cache-control", "max-age=60"),
            ("clear-site-data", "\"cookies\", \"storage\""),
            ("strict-transport-security", "max-age=1"),
            ("set-cookie", "__Host-jetway=x; Path=/"),
            ("set-cookie", "a=b; Domain=example.com"),
            ("content-security-policy", "default-src 'self'"),
        ];
        for (readers, open) in [(Readers::Own, false), (Readers::Bearer, true)] {
            let headers = served(&Served::Guarded(&guard, &readers), &lines);
            assert!(headers.values().all(|value| value != "max-age=60"), "{headers:?}");
            assert_eq!(headers["clear-site-data"], "\"storage\"");
            assert_eq!(headers["strict-transport-security"], "max-age=1", "its host is its own");
            let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
            assert_eq!(cookies, ["a=b"]);
            assert_eq!(headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), open, "{readers:?}");
            let policies: Vec<_> = headers.get_all("content-security-policy").iter().collect();
            assert_eq!(policies[0], "default-src 'self'");
            assert!(!headers.contains_key(REFERRER_POLICY), "no token is in the URL");
        }
        let headers = served(&Served::Guarded(&guard, &Readers::Own), &[("clear-site-data", "\"cookies\"")]);
        assert!(!headers.contains_key("clear-site-data"));
        let own = served(&Served::Alone, &lines);
        assert_eq!(own["cross-origin-resource-policy"], "cross-origin", "the path form's own word");
        assert_eq!(own.get_all(SET_COOKIE).iter().count(), 1);
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
