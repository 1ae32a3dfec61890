//! A backend's headers: the client's without those that the client has no say in, and ours.

use http::header::{self, CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Method, Version};

use super::fields::{remove_nominated, remove_where, tokens};
use super::fixed::FixedHeaders;
use super::forwarded::{self, Forwarding};
use super::rules::{self, InRequest};
use super::value::{Unwritable, value};

pub(super) const VERIFIED_PATH: HeaderName = HeaderName::from_static("x-verified-path");

/// The proxy's word to a backend on one request.
pub struct Told<'a> {
    pub fixed: &'a FixedHeaders,
    pub verified_path: &'a str,
    pub forwarding: Forwarding<'a>,
    pub upgrade: Option<&'a Upgrade>,
}

/// The protocol that the backend is asked to switch to.
#[derive(Debug)]
pub struct Upgrade {
    pub protocol: HeaderValue,
    /// Of a client that has none of its own, because it asked in HTTP/2.
    pub key: Option<String>,
}

/// Whether a body is framed in a way that is passed on as it came. Chunks are made anew for the
/// backend; of whatever else was laid around or inside of them, it would be told nothing.
pub fn framing_is_plain(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked =
        encodings.next().is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    chunked && encodings.next().is_none()
}

/// A part of an HTTP/2 request that could be read in two ways once it is HTTP/1.1. Most never
/// comes here: h2 itself refuses fields of connections, `TE` other than trailers, upper case,
/// control characters, and lengths that the data contradict.
pub fn oddity(headers: &HeaderMap) -> Option<&'static str> {
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Some("a request has one Content-Length at most");
    }
    let padded = |value: &HeaderValue| value.as_bytes().trim_ascii().len() != value.len();
    // RFC 9113 §8.2.1.
    headers.values().any(padded).then_some("a field must not begin or end with white space")
}

/// The protocol that a request asks to switch to, where that may be passed on.
///
/// Not from HTTP/1.0, and not with a body. Nor to another HTTP or to TLS: inside of that tunnel,
/// requests with whatever `x-verified-*` a client likes would reach the backend.
pub fn upgrade_wanted(
    version: Version,
    method: &Method,
    headers: &HeaderMap,
    has_body: bool,
) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || method != Method::GET || has_body {
        return None;
    }
    let nominated = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let mut wanted = headers.get_all(UPGRADE).iter();
    let (Some(value), None) = (wanted.next(), wanted.next()) else { return None };
    let harmless = value.to_str().is_ok_and(|text| {
        text.split(',').all(|protocol| {
            let protocol = protocol.trim().to_ascii_lowercase();
            !protocol.is_empty() && !["h2", "http", "tls"].iter().any(|prefix| protocol.starts_with(prefix))
        })
    });
    (nominated && harmless).then(|| value.clone())
}

/// From the client's headers to the backend's.
pub fn to_backend(headers: &mut HeaderMap, told: &Told<'_>) -> Result<(), Unwritable> {
    let takes_trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    let trusted = told.forwarding.peer.trusted;
    remove_nominated(headers);
    remove_where(headers, |name| match rules::in_request(name.as_str().as_bytes()) {
        InRequest::Removed | InRequest::Connection | InRequest::Te => true,
        InRequest::Forwarders => !trusted,
        InRequest::Passes | InRequest::Noticed | InRequest::Host | InRequest::Length | InRequest::Cookie => {
            false
        }
    });
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = told.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade.protocol.clone());
        if let Some(key) = &upgrade.key {
            headers.insert(SEC_WEBSOCKET_KEY, value(&SEC_WEBSOCKET_KEY, key)?);
        }
    }
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, value(&header::HOST, told.forwarding.host)?);
    }
    join_cookies(headers);
    if trusted {
        forwarded::tell(headers, &told.forwarding)?;
    }
    told.fixed.set(headers);
    headers.insert(VERIFIED_PATH, value(&VERIFIED_PATH, told.verified_path)?);
    Ok(())
}

/// HTTP/2 cuts cookies into crumbs; an HTTP/1.1 server must get them in one piece (RFC 9113
/// §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(header::COOKIE, whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use jetway_protocol::attach::Entry;
    use jetway_protocol::spec::Protocol;

    use super::super::map;
    use super::*;
    use crate::peer::forwarders::Peer;

    fn entry() -> Entry {
        Entry {
            address: "10.64.0.9:8080".parse().unwrap(),
            user: Some("Zoë".into()),
            auth: "{}".into(),
            secret: "s3cret".into(),
            subdomain: None,
            linger_seconds: 10,
            allowed_origins: Vec::new(),
            protocol: Protocol::Http1,
            ports: BTreeMap::new(),
        }
    }

    fn sent_by(trusted: bool, lines: &[(&str, &str)], upgrade: Option<&Upgrade>) -> HeaderMap {
        let mut headers = map(lines);
        let (entry, backend) = (Arc::new(entry()), "b-1".parse().unwrap());
        let peer = Peer { address: "192.0.2.7:1".parse().unwrap(), trusted };
        let host = Arc::from("h");
        let forwarding = Forwarding { peer, scheme: "https", host: &host };
        let fixed = FixedHeaders::new(entry, &backend, &forwarding).unwrap();
        let told = Told { fixed: &fixed, verified_path: "/tok/a", forwarding, upgrade };
        to_backend(&mut headers, &told).unwrap();
        headers
    }

    fn sent(lines: &[(&str, &str)], upgrade: Option<&Upgrade>) -> HeaderMap {
        sent_by(false, lines, upgrade)
    }

    #[test]
    fn every_spelling_of_ours_is_removed() {
        let identity =
            ["X-Verified-Username", "x_verified_username", "x.verified.path", "x--verified-secret"];
        let odd = ["x_forwarded_for", "x-forwarded_host", "X.Forwarded.Proto", "x-forwarded"];
        let usual = ["X-Forwarded-For", "x-forwarded-host", "x-forwarded-prefix", "forwarded"];
        for name in identity.iter().chain(&odd) {
            for trusted in [false, true] {
                let headers = sent_by(trusted, &[(name, "mallory")], None);
                assert!(headers.values().all(|value| value != "mallory"), "{name}: {headers:?}");
            }
        }
        for name in usual {
            let told = |trusted| format!("{:?}", sent_by(trusted, &[(name, "mallory")], None));
            assert!(!told(false).contains("mallory"), "{name}");
            assert!(told(true).contains("mallory"), "{name}: a forwarder's word is extended");
        }
    }

    #[test]
    fn ours_are_set_and_cannot_be_nominated_away() {
        let nominate = "x-verified-username, X-Verified-Secret, x-forwarded-for, forwarded, close";
        let headers = sent(&[("connection", nominate), ("x-verified-username", "root")], None);
        assert_eq!(headers["x-verified-username"].as_bytes(), "Zoë".as_bytes());
        for (name, value) in [
            ("x-verified-secret", "s3cret"),
            ("x-verified-user-data", "{}"),
            ("x-verified-path", "/tok/a"),
            ("x-verified-backend", "b-1"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "h"),
            ("forwarded", "for=192.0.2.7;host=\"h\";proto=https"),
        ] {
            assert_eq!(headers[name], value);
            assert_eq!(headers.get_all(name).iter().count(), 1, "{name}");
        }
    }

    #[test]
    fn hop_by_hop_and_nominated_fields_stay_behind() {
        let headers = sent(
            &[
                ("host", "h"),
                ("content-length", "3"),
                ("connection", "keep-alive, X-Secret, host"),
                ("connection", "content-length, cookie, é"),
                ("keep-alive", "5"),
                ("x-secret", "1"),
                ("cookie", "a=b"),
                ("te", "trailers, deflate"),
                ("upgrade", "websocket"),
                ("transfer-encoding", "chunked"),
                ("proxy-connection", "x"),
                ("accept", "*/*"),
                ("trailer", "x-sum"),
            ],
            None,
        );
        for gone in [
            "connection",
            "keep-alive",
            "x-secret",
            "cookie",
            "upgrade",
            "transfer-encoding",
            "proxy-connection",
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        for (name, value) in [
            ("host", "h"),
            ("content-length", "3"),
            ("te", "trailers"),
            ("accept", "*/*"),
            ("trailer", "x-sum"),
        ] {
            assert_eq!(headers[name], value);
        }
    }

    #[test]
    fn an_upgrade_is_asked_for_anew() {
        let lines = [
            ("connection", "Upgrade, x-a"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            ("x-a", "1"),
        ];
        let mut upgrade = Upgrade { protocol: HeaderValue::from_static("websocket"), key: None };
        let headers = sent(&lines, Some(&upgrade));
        assert_eq!(headers[CONNECTION], "upgrade");
        assert_eq!(headers[UPGRADE], "websocket");
        assert_eq!(headers["sec-websocket-key"], "k");
        assert!(!headers.contains_key("x-a"));
        upgrade.key = Some("ours".into());
        let headers = sent(&lines, Some(&upgrade));
        let keys: Vec<_> = headers.get_all("sec-websocket-key").iter().collect();
        assert_eq!(keys, ["ours"]);
    }

    #[test]
    fn crumbs_of_a_cookie_are_put_together_and_a_host_is_never_missing() {
        let headers = sent(&[("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")], None);
        let cookies: Vec<_> = headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3; d=4"]);
        assert_eq!(headers["host"], "h");
        assert_eq!(sent(&[("host", "H:1")], None)["host"], "H:1");
    }

    #[test]
    fn what_would_be_two_things_in_http_1() {
        for (lines, odd) in [
            (&[("content-length", "1"), ("content-length", "1")][..], true),
            (&[("content-length", "1"), ("accept", "a"), ("accept", "b")], false),
            (&[("x", " a")], true),
            (&[("x", "a\t")], true),
            (&[("x", "a b"), ("y", "")], false),
        ] {
            assert_eq!(oddity(&map(lines)).is_some(), odd, "{lines:?}");
        }
    }

    #[test]
    fn which_upgrades_are_passed_on() {
        let table: &[(&str, &str, Version, Method, bool, bool)] = &[
            ("Upgrade", "websocket", Version::HTTP_11, Method::GET, false, true),
            ("keep-alive, upgrade", "WebSocket", Version::HTTP_11, Method::GET, false, true),
            ("upgrade", "jetway-x", Version::HTTP_11, Method::GET, false, true),
            ("upgrade", "websocket", Version::HTTP_10, Method::GET, false, false),
            ("upgrade", "websocket", Version::HTTP_11, Method::POST, false, false),
            ("upgrade", "websocket", Version::HTTP_11, Method::GET, true, false),
            ("close", "websocket", Version::HTTP_11, Method::GET, false, false),
            ("upgrade", "h2c", Version::HTTP_11, Method::GET, false, false),
            ("upgrade", "websocket, H2C", Version::HTTP_11, Method::GET, false, false),
            ("upgrade", "HTTP/2.0", Version::HTTP_11, Method::GET, false, false),
            ("upgrade", "TLS/1.0", Version::HTTP_11, Method::GET, false, false),
            ("upgrade", "", Version::HTTP_11, Method::GET, false, false),
        ];
        for (connection, upgrade, version, method, has_body, expect) in table {
            let headers = map(&[("connection", connection), ("upgrade", upgrade)]);
            let found = upgrade_wanted(*version, method, &headers, *has_body).is_some();
            assert_eq!(found, *expect, "{connection} {upgrade} {version:?} {method} {has_body}");
        }
    }
}
