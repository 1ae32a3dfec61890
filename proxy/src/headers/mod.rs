//! Which headers and trailers pass, which are taken off, and what the backend and the client are told.
//!
//! Pure. The order is the rule: hop-by-hop fields and what `Connection` nominates go first, then whatever looks like
//! ours, and only then ours are set, so that nobody can nominate them away (CVE-2025-48865, CVE-2025-64484).
//!
//! `request` is what a backend gets (`forwarded` of it says for whom, `standing` is what stays), `response` what a client gets (`cookies` are confined). `plain` says of which heads
//! all of that changes nothing.

mod cookies;
mod forwarded;
pub mod plain;
mod request;
mod response;
mod standing;

pub use forwarded::Forwarding;
pub use request::{Told, Unwritable, Upgrade, framing_is_plain, oddity, to_backend, upgrade_wanted};
pub use response::{Shared, Switched, allow_every_origin, to_client};
pub use standing::Standing;

use http::header::{self, CONNECTION, HeaderMap, HeaderName, UPGRADE};

/// Fields that concern one connection only (RFC 9110 §7.6.1). `Trailer` is not among them.
static HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];
/// A client that nominates these means harm or does not know what it says; the message would be another without them.
static NOT_NOMINABLE: [HeaderName; 2] = [header::HOST, header::CONTENT_LENGTH];
/// Fields that must not come late (RFC 9110 §6.5.1): framing, routing, who somebody is.
static NOT_IN_TRAILERS: [HeaderName; 9] = [
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

/// Trailers, either way.
pub fn trailers(trailers: &mut HeaderMap) {
    remove_nominated(trailers);
    remove_where(trailers, |name| {
        is_hop_by_hop(name) || is_ours(name, false) || NOT_IN_TRAILERS.contains(name)
    });
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn remove_nominated(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let nominated: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|token| HeaderName::from_bytes(token).ok()).collect();
    for name in nominated.iter().filter(|name| !NOT_NOMINABLE.contains(name)) {
        headers.remove(name);
    }
}

/// One pass over what is there is less than a look for each that might be.
fn remove_where(headers: &mut HeaderMap, mut goes: impl FnMut(&HeaderName) -> bool) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// `forwarder`: it comes from one who may speak for others, so its forwarding fields stay where they are spelled as usual.
fn is_ours(name: &HeaderName, forwarder: bool) -> bool {
    match ours(name.as_str()) {
        Some(Ours::Verified) => true,
        Some(Ours::Forwarding { spelled_as_usual }) => !(forwarder && spelled_as_usual),
        None => false,
    }
}

/// A field that only we, or only we and a forwarder, may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ours {
    Verified,
    Forwarding { spelled_as_usual: bool },
}

/// `x-verified…`, `x-forwarded…`, and every spelling of them that an application server might fold into it: CGI turns `-`
/// into `_`, others turn any sign into one.
fn ours(name: &str) -> Option<Ours> {
    if name == "forwarded" {
        return Some(Ours::Forwarding { spelled_as_usual: true });
    }
    let rest = name.strip_prefix('x')?;
    let word = rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if word.len() == rest.len() {
        return None;
    }
    if word.starts_with("verified") {
        return Some(Ours::Verified);
    }
    let kind = word.strip_prefix("forwarded")?;
    let is_word = kind.is_empty() || kind.starts_with(|c: char| !c.is_ascii_alphanumeric());
    let usual =
        name.starts_with("x-forwarded-") && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_word.then_some(Ours::Forwarding { spelled_as_usual: usual })
}

#[cfg(test)]
fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let parse = |&(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse::<header::HeaderValue>().unwrap())
    };
    lines.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_ours_is_known() {
        for name in [
            "x-verified-username",
            "x_verified_username",
            "x-verified_secret",
            "x-verified",
            "x--verified-path",
            "x_-verified-user-data",
            "x.verified.path",
            "x-verifiedness",
        ] {
            assert_eq!(ours(name), Some(Ours::Verified), "{name}");
        }
        let table = [
            ("forwarded", true),
            ("x-forwarded-for", true),
            ("x-forwarded-host", true),
            ("x-forwarded-prefix", true),
            ("x_forwarded_for", false),
            ("x-forwarded_proto", false),
            ("x.forwarded.host", false),
            ("x--forwarded-for", false),
            ("x-forwarded", false),
        ];
        for (name, spelled_as_usual) in table {
            assert_eq!(ours(name), Some(Ours::Forwarding { spelled_as_usual }), "{name}");
        }
        for name in [
            "x-very",
            "xverified",
            "verified",
            "x-unverified",
            "x-forwardedness",
            "xforwarded-for",
            "cookie",
            "x",
            "x-",
        ] {
            assert_eq!(ours(name), None, "{name}");
        }
    }

    #[test]
    fn trailers_carry_neither_framing_nor_identity() {
        let mut late = map(&[
            ("x-sum", "1"),
            ("X-Verified-Username", "root"),
            ("x_verified_secret", "1"),
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("content-length", "9"),
            ("transfer-encoding", "chunked"),
            ("host", "evil"),
            ("authorization", "b"),
            ("set-cookie", "a=b"),
        ]);
        trailers(&mut late);
        assert_eq!(late, map(&[("x-sum", "1")]));
    }
}
