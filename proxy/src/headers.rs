//! Which headers and trailers pass, which are taken off, and what the backend and the client are told.
//!
//! Pure. The order is the rule: hop-by-hop fields and what `Connection` nominates go first, then whatever looks like
//! ours, and only then ours are set, so that nobody can nominate them away (CVE-2025-48865, CVE-2025-64484).

use std::net::IpAddr;

use http::header::{
    self, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE,
};
use http::{Method, Version};
use jetway_protocol::attach::Entry;
use jetway_protocol::ids::BackendId;

/// Fields that concern one connection only (RFC 9110 §7.6.1). `Trailer` is not among them.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];
/// A client that nominates these means harm or does not know what it says; the message would be another without them.
const NOT_NOMINABLE: [HeaderName; 2] = [header::HOST, header::CONTENT_LENGTH];
/// Fields that must not come late (RFC 9110 §6.5.1): framing, routing, who somebody is.
const NOT_IN_TRAILERS: [HeaderName; 9] = [
    header::CONTENT_LENGTH,
    header::HOST,
    header::TRAILER,
    header::TE,
    header::AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
];
/// Plane's name, kept for what was written for it.
pub const BACKEND_ID: HeaderName = HeaderName::from_static("x-plane-backend-id");

/// What a backend is told of one request.
pub struct Told<'a> {
    pub entry: &'a Entry,
    pub backend: &'a BackendId,
    pub verified_path: &'a str,
    pub peer: IpAddr,
    /// How browsers reach this cluster.
    pub scheme: &'static str,
    /// The protocol to ask the backend to switch to.
    pub upgrade: Option<HeaderValue>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} cannot be written as a header")]
pub struct Unwritable(&'static str);

/// Whether a body is framed in a way that is passed on as it came. Chunks are made anew for the backend; of whatever else
/// was laid around or inside of them, it would be told nothing.
pub fn framing_is_plain(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked =
        encodings.next().is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    chunked && encodings.next().is_none()
}

/// The protocol that a request asks to switch to, where that may be passed on.
///
/// Not from HTTP/1.0, and not with a body. Nor to another HTTP or to TLS: inside of that tunnel, requests with
/// whatever `x-verified-*` a client likes would reach the backend.
pub fn upgrade_wanted(
    version: Version,
    method: &Method,
    headers: &HeaderMap,
    has_body: bool,
) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || method != Method::GET || has_body {
        return None;
    }
    let nominated = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
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
    let takes_trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    remove_hop_by_hop(headers);
    headers.remove(header::TE);
    remove_ours(headers);
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = &told.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    set(headers, "x-forwarded-for", &told.peer.to_string())?;
    headers.insert("x-forwarded-proto", HeaderValue::from_static(told.scheme));
    if let Some(user) = &told.entry.user {
        set(headers, "x-verified-username", user)?;
    }
    set(headers, "x-verified-user-data", &told.entry.auth)?;
    set(headers, "x-verified-path", told.verified_path)?;
    set(headers, "x-verified-backend", told.backend.as_str())?;
    set(headers, "x-verified-secret", &told.entry.secret)
}

/// From the backend's headers to the client's. `upgraded`: the answer is the 101 that was asked for.
pub fn to_client(headers: &mut HeaderMap, backend: &BackendId, upgraded: bool) {
    let protocol = headers.get(UPGRADE).cloned();
    remove_hop_by_hop(headers);
    if let (true, Some(protocol)) = (upgraded, protocol) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    if let Ok(id) = HeaderValue::from_str(backend.as_str()) {
        headers.insert(BACKEND_ID, id);
    }
    let cors = [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_HEADERS];
    if !cors.iter().any(|name| headers.contains_key(name)) {
        allow_every_origin(headers);
    }
}

/// Tokens are in the path, not in cookies: another origin learns nothing that it could not ask for itself.
pub fn allow_every_origin(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, Authorization"));
}

/// Trailers, either way.
pub fn trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    remove_ours(trailers);
    for name in NOT_IN_TRAILERS {
        trailers.remove(name);
    }
}

fn set(headers: &mut HeaderMap, name: &'static str, text: &str) -> Result<(), Unwritable> {
    let value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| Unwritable(name))?;
    headers.insert(name, value);
    Ok(())
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')).map(str::trim)
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()).collect();
    for name in nominated.iter().filter(|name| !NOT_NOMINABLE.contains(name)).chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn remove_ours(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> =
        headers.keys().filter(|name| looks_like_ours(name.as_str())).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// `x-verified…` and every spelling that an application server might fold into it: CGI turns `-` into `_`, others
/// turn any sign into one. Also the forwarding headers that we replace.
fn looks_like_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix('x') else { return false };
    let word = rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if word.len() == rest.len() {
        return false;
    }
    let folded = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let word: String = word.chars().map(folded).collect();
    word.starts_with("verified") || word == "forwarded-for" || word == "forwarded-proto"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            address: "10.64.0.9:8080".parse().unwrap(),
            user: Some("Zoë".into()),
            auth: "{}".into(),
            secret: "s3cret".into(),
            subdomain: None,
            linger_seconds: 10,
        }
    }

    fn sent(lines: &[(&str, &str)], upgrade: Option<&'static str>) -> HeaderMap {
        let mut headers = map(lines);
        let (entry, backend) = (entry(), "b-1".parse().unwrap());
        let upgrade = upgrade.map(HeaderValue::from_static);
        let peer = "192.0.2.7".parse().unwrap();
        let told = Told {
            entry: &entry,
            backend: &backend,
            verified_path: "/tok/a",
            peer,
            scheme: "https",
            upgrade,
        };
        to_backend(&mut headers, &told).unwrap();
        headers
    }

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let parse = |&(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        lines.iter().map(parse).collect()
    }

    #[test]
    fn every_spelling_of_ours_is_removed() {
        let ours = [
            "X-Verified-Username",
            "x_verified_username",
            "X-VERIFIED_SECRET",
            "x-verified",
            "x--verified-path",
            "x_-verified-user-data",
            "x.verified.path",
            "x-verifiedness",
            "X_Forwarded_For",
            "x-forwarded_proto",
        ];
        for name in ours {
            assert!(looks_like_ours(&name.to_ascii_lowercase()), "{name}");
            let headers = sent(&[(name, "mallory")], None);
            assert!(headers.values().all(|value| value != "mallory"), "{name}: {headers:?}");
        }
        for name in
            ["x-very", "xverified", "verified", "x-forwarded-host", "x-unverified", "cookie", "x", "x-"]
        {
            assert!(!looks_like_ours(name), "{name}");
        }
    }

    #[test]
    fn ours_are_set_and_cannot_be_nominated_away() {
        let nominate = "x-verified-username, X-Verified-Secret, x-forwarded-for, close";
        let headers = sent(&[("connection", nominate), ("x-verified-username", "root")], None);
        assert_eq!(headers["x-verified-username"].as_bytes(), "Zoë".as_bytes());
        for (name, value) in [
            ("x-verified-secret", "s3cret"),
            ("x-verified-user-data", "{}"),
            ("x-verified-path", "/tok/a"),
            ("x-verified-backend", "b-1"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "https"),
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
                ("connection", "content-length, cookie"),
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
        let headers = sent(&lines, Some("websocket"));
        assert_eq!(headers[CONNECTION], "upgrade");
        assert_eq!(headers[UPGRADE], "websocket");
        assert_eq!(headers["sec-websocket-key"], "k");
        assert!(!headers.contains_key("x-a"));
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

    #[test]
    fn trailers_carry_neither_framing_nor_identity() {
        let mut late = map(&[
            ("x-sum", "1"),
            ("X-Verified-Username", "root"),
            ("x_verified_secret", "1"),
            ("content-length", "9"),
            ("transfer-encoding", "chunked"),
            ("host", "evil"),
            ("authorization", "b"),
        ]);
        trailers(&mut late);
        assert_eq!(late, map(&[("x-sum", "1")]));
    }

    #[test]
    fn an_answer_gets_its_id_and_open_cors_unless_it_has_its_own() {
        let mut headers = map(&[("connection", "x-a"), ("x-a", "1"), ("server", "app"), ("upgrade", "h2c")]);
        to_client(&mut headers, &"b-1".parse().unwrap(), false);
        assert_eq!(headers[BACKEND_ID], "b-1");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "*, Authorization");
        assert_eq!(headers["server"], "app");
        assert!(
            !headers.contains_key("x-a")
                && !headers.contains_key(UPGRADE)
                && !headers.contains_key(CONNECTION)
        );

        let mut headers = map(&[("access-control-allow-methods", "GET")]);
        to_client(&mut headers, &"b-1".parse().unwrap(), false);
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }
}
