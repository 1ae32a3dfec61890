//! For whom a request comes, in the two ways that applications read: `X-Forwarded-*`, and
//! `Forwarded` (RFC 7239).
//!
//! The word of a trusted forwarder is extended; any other client's word is gone by then.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::value::Unwritable;
use crate::peer::forwarders::Peer;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// How a request came to us.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding<'a> {
    pub peer: Peer,
    /// How browsers reach this cluster.
    pub scheme: &'static str,
    /// The request's Host, as it came.
    pub host: &'a Arc<str>,
}

/// After the client's own fields were removed, and a forwarder's were not.
pub fn tell(headers: &mut HeaderMap, told: &Forwarding<'_>) -> Result<(), Unwritable> {
    let ip = told.peer.address.ip();
    let scheme = scheme(headers, told);
    extend(headers, &FOR, &ip.to_string())?;
    extend(headers, &FORWARDED, &element(ip, told.host, scheme))?;
    headers.insert(PROTO, HeaderValue::from_static(scheme));
    if headers.get_all(HOST).iter().count() != 1 {
        let host = HeaderValue::from_str(told.host).map_err(|_| Unwritable(HOST))?;
        headers.insert(HOST, host);
    }
    Ok(())
}

/// A forwarder's word where it is one of the two, else the cluster's.
fn scheme(headers: &HeaderMap, told: &Forwarding<'_>) -> &'static str {
    let mut given = headers.get_all(PROTO).iter();
    match (given.next(), given.next()) {
        (Some(given), None) if given.as_bytes().eq_ignore_ascii_case(b"https") => "https",
        (Some(given), None) if given.as_bytes().eq_ignore_ascii_case(b"http") => "http",
        _ => told.scheme,
    }
}

/// An IPv6 address needs brackets and so quotes (RFC 7239 §6), and so does a host with a port. No
/// host that [`crate::route::host`] lets pass has quotes or backslashes in it.
fn element(ip: IpAddr, host: &str, scheme: &str) -> String {
    match ip {
        IpAddr::V4(ip) => format!("for={ip};host=\"{host}\";proto={scheme}"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\";host=\"{host}\";proto={scheme}"),
    }
}

/// One field with everything that was said before, and ours last.
fn extend(headers: &mut HeaderMap, name: &HeaderName, ours: &str) -> Result<(), Unwritable> {
    let mut value = Vec::new();
    for before in headers.get_all(name).iter().filter(|before| !before.is_empty()) {
        value.extend_from_slice(before.as_bytes());
        value.extend_from_slice(b", ");
    }
    value.extend_from_slice(ours.as_bytes());
    let value =
        HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).map_err(|_| Unwritable(name.clone()))?;
    headers.insert(name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::map;
    use super::*;

    fn told(lines: &[(&str, &str)], address: &str) -> HeaderMap {
        let mut headers = map(lines);
        let peer = Peer { address: address.parse().unwrap(), trusted: true };
        let host = Arc::from("sub.example.com");
        tell(&mut headers, &Forwarding { peer, scheme: "https", host: &host }).unwrap();
        headers
    }

    #[test]
    fn both_ways_are_told() {
        let headers = told(&[], "192.0.2.7:1");
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "sub.example.com");
        assert_eq!(headers["forwarded"], "for=192.0.2.7;host=\"sub.example.com\";proto=https");
        let headers = told(&[], "[2001:db8::7]:1");
        assert_eq!(headers["x-forwarded-for"], "2001:db8::7");
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::7]\";host=\"sub.example.com\";proto=https");
    }

    #[test]
    fn what_a_forwarder_said_stays_and_comes_first() {
        let lines = [
            ("x-forwarded-for", "203.0.113.5, 10.0.0.2"),
            ("x-forwarded-for", "10.0.0.3"),
            ("x-forwarded-proto", "HTTP"),
            ("x-forwarded-host", "public.example.com"),
            ("forwarded", "for=203.0.113.5"),
        ];
        let headers = told(&lines, "10.0.0.4:1");
        assert_eq!(headers["x-forwarded-for"], "203.0.113.5, 10.0.0.2, 10.0.0.3, 10.0.0.4");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "public.example.com");
        let expect = "for=203.0.113.5, for=10.0.0.4;host=\"sub.example.com\";proto=http";
        assert_eq!(headers["forwarded"], expect);
    }

    #[test]
    fn a_forwarder_that_says_two_things_says_nothing() {
        let lines = [
            ("x-forwarded-proto", "http"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a"),
            ("x-forwarded-host", "b"),
        ];
        for lines in [&lines[..], &[("x-forwarded-proto", "gopher")]] {
            let headers = told(lines, "10.0.0.4:1");
            assert_eq!(headers["x-forwarded-proto"], "https");
            assert_eq!(headers["x-forwarded-host"], "sub.example.com");
            assert_eq!(headers.get_all("x-forwarded-host").iter().count(), 1);
        }
    }
}
