//! Headers of a request and of an answer: what is taken off, what stays, and what is ours.
//!
//! Here is how they are read, and the rules that hold both ways; what a backend gets is checked in
//! `request`, what a client gets in `response`.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Uri, Version};
use jetway_protocol::ids::PortName;
use jetway_protocol::token::TOKEN_CHARS_MAX;

use super::{request, response};
use crate::headers;
use crate::route::{self, BackendTarget, Target};

/// As many as hyper takes.
const HEADERS_MAX: usize = 100;

/// A message as far as it comes before its headers are touched.
pub struct Message {
    pub uri: Uri,
    pub version: Version,
    pub host: Arc<str>,
    pub target: BackendTarget,
    pub headers: HeaderMap,
}

/// `bytes`: lines with a request's target and its headers. The same headers are then a backend's
/// answer to it, and trailers.
pub fn headers(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Some(uri) = lines.next().and_then(|uri| Uri::try_from(uri).ok()) else { return };
    let headers: HeaderMap = lines.filter_map(header).take(HEADERS_MAX).collect();
    response::trailers(&headers);
    let Ok(Target::Backend(target)) = route::target(false, &uri) else { return };
    if !can_be_opened(&target) {
        return;
    }
    response::answer(&target, &headers);
    let version = if headers.contains_key(HOST) { Version::HTTP_11 } else { Version::HTTP_2 };
    let Ok(host) = route::host(version, &uri, &headers) else { return };
    let is_odd = version == Version::HTTP_2 && headers::oddity(&headers).is_some();
    if !is_odd && headers::framing_is_plain(&headers) {
        request::request(&Message { uri, version, host: host.into(), target, headers });
    }
}

/// As a parser of HTTP/1.1 takes them: without the white space around a value.
fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().skip(1).position(|byte| *byte == b':')? + 1;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
}

/// Nothing else comes as far as its headers.
fn can_be_opened(target: &BackendTarget) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !target.token.is_empty()
        && target.token.len() <= TOKEN_CHARS_MAX
        && target.token.bytes().all(is_letter)
        && target.port.as_ref().is_none_or(|port| port.parse::<PortName>().is_ok())
}

/// What `Connection` names. A Host and a length are not a sender's to take away.
pub fn nominated(headers: &HeaderMap) -> BTreeSet<String> {
    let values = headers.get_all("connection").iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = tokens.filter_map(|token| std::str::from_utf8(token.trim_ascii()).ok());
    names.map(str::to_ascii_lowercase).filter(|name| name != "host" && name != "content-length").collect()
}

/// RFC 9110 §7.6.1, and those that older software takes for such.
pub fn is_of_one_connection(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authorization"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// What a forwarder alone may say of a client, in small letters.
const OF_FORWARDERS: [&str; 16] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-real-ip",
    "x-remote-user",
];

/// In its usual spelling.
pub fn is_a_forwarders(name: &str) -> bool {
    let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    OF_FORWARDERS.contains(&name) || (is_word && name.starts_with("x-forwarded-"))
}

/// Who somebody is and for whom they speak, and what frames a message in another spelling than the
/// usual one, however an application server might read it.
pub fn is_ours(name: &str) -> bool {
    let folded: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let frames = is_of_one_connection(&folded) || folded == "content-length";
    if OF_FORWARDERS.contains(&&*folded) || name == "proxy" || (frames && folded != name) {
        return true;
    }
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let mut words = words.iter().enumerate().filter(|(at, word)| *at == 0 || !word.is_empty());
    match (words.next(), words.next()) {
        (Some((_, &"forwarded")), None) => name == "forwarded",
        (Some((_, &"x")), Some((_, word))) => word.starts_with("verified") || *word == "forwarded",
        _ => false,
    }
}

pub fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}
