//! A request's line and Host: the form of its URL, its token, and the path for the backend.
//!
//! Pure. The token is opened elsewhere.

use http::header::{HOST, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Uri, Version};
use jetway_protocol::token::STATIC_PREFIX;

use crate::headers::Shared;
use crate::route::hosts::{OwnHost, split_port};

/// Before a port's name in a path.
const PORT_SEGMENT: &str = "_port";

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/ready`, for balancers.
    Ready,
    /// `/`, which no backend owns.
    Root,
    Backend(BackendTarget),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTarget {
    pub token: String,
    /// `/s.<token>/…`: the path goes on unchanged.
    pub is_static: bool,
    /// The path and query for the backend.
    pub forward: PathAndQuery,
    /// `x-verified-path`: the path as the client sent it, without the query.
    pub verified_path: String,
    /// The name of a port, as the path has it.
    pub port: Option<String>,
    /// Bytes of the path before the application's root.
    prefix: usize,
}

impl BackendTarget {
    pub fn shared(&self) -> Shared<'_> {
        let prefix = &self.verified_path[..self.prefix];
        Shared { prefix, asked: &self.verified_path, path_is_kept: self.is_static }
    }
}

/// The parts of a path that is a backend's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathParts<'a> {
    pub token: &'a str,
    pub is_static: bool,
    pub port: Option<&'a str>,
    path: &'a str,
    prefix: usize,
}

impl<'a> PathParts<'a> {
    /// `None`: it is the proxy's own, or no path.
    pub fn of(path: &'a str) -> Option<Self> {
        let segment = path.strip_prefix('/')?.split('/').next().unwrap_or_default();
        if matches!(path, "/" | "/ready") {
            return None;
        }
        let (token, is_static) = match segment.strip_prefix(STATIC_PREFIX) {
            Some(token) => (token, true),
            None => (segment, false),
        };
        let token_end = 1 + segment.len();
        let port = port_in(&path[token_end..]);
        let prefix = token_end + port.map_or(0, |port| 1 + PORT_SEGMENT.len() + 1 + port.len());
        Some(Self { token, is_static, port, path, prefix: prefix.min(path.len()) })
    }

    /// The path for the backend, without the query.
    pub fn forward(&self) -> &'a str {
        match if self.is_static { self.path } else { &self.path[self.prefix..] } {
            "" => "/",
            path => path,
        }
    }

    pub fn shared(&self) -> Shared<'a> {
        Shared { prefix: &self.path[..self.prefix], asked: self.path, path_is_kept: self.is_static }
    }
}

/// A request that names no place at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidTarget {
    Host,
    HostSyntax,
    HostMismatch,
    /// Neither named in the handshake, nor in the certificate that was shown there.
    Misdirected,
    NotAPath,
    TwoPorts,
}

impl InvalidTarget {
    /// For the request's sender.
    pub fn text(self) -> &'static str {
        match self {
            InvalidTarget::Host => "a request needs exactly one Host header",
            InvalidTarget::HostSyntax => "the Host header is not a host name with an optional port",
            InvalidTarget::HostMismatch => "the request target names another host than the Host header",
            InvalidTarget::Misdirected => {
                "this connection was opened for another host; open one for this host"
            }
            InvalidTarget::NotAPath => "the request target must be a path",
            InvalidTarget::TwoPorts => "the host and the path name different ports",
        }
    }
}

/// The one Host of a request. An absolute-form target (RFC 9112 §3.2.2) must name the same one. In
/// HTTP/2 the target's is enough (RFC 9113 §8.3.1).
pub fn host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<String, InvalidTarget> {
    let mut values = headers.get_all(HOST).iter();
    let text = match (values.next(), values.next(), uri.authority()) {
        (Some(value), None, _) => value.to_str().map_err(|_| InvalidTarget::HostSyntax)?,
        (None, None, Some(authority)) if version == Version::HTTP_2 => authority.as_str(),
        _ => return Err(InvalidTarget::Host),
    };
    let host = host_name(text)?;
    match uri.authority() {
        Some(named) if !named.as_str().eq_ignore_ascii_case(text) => Err(InvalidTarget::HostMismatch),
        _ => Ok(host),
    }
}

/// A Host as it is compared.
pub fn host_name(text: &str) -> Result<String, InvalidTarget> {
    let authority: Authority = text.parse().map_err(|_| InvalidTarget::HostSyntax)?;
    if authority.host().is_empty() || text.contains('@') || !text.is_ascii() {
        return Err(InvalidTarget::HostSyntax);
    }
    Ok(text.to_ascii_lowercase())
}

/// The Host of a request that has no other word on it.
pub fn lone_host<'a>(uri: &Uri, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(HOST).iter();
    match (values.next(), values.next(), uri.authority()) {
        (Some(value), None, None) => Some(value),
        _ => None,
    }
}

/// The same place by HTTPS, at this port.
pub fn by_https(host: &str, port: u16, path: &str) -> String {
    match (split_port(host).0, port) {
        (name, 443) => format!("https://{name}{path}"),
        (name, port) => format!("https://{name}:{port}{path}"),
    }
}

/// `is_plain_connect`: it asks for a tunnel to another host.
pub fn target(is_plain_connect: bool, uri: &Uri) -> Result<Target, InvalidTarget> {
    let path = uri.path();
    if is_plain_connect || !path.starts_with('/') {
        return Err(InvalidTarget::NotAPath);
    }
    let place = match (path, PathParts::of(path)) {
        ("/ready", _) => return Ok(Target::Ready),
        (_, None) => return Ok(Target::Root),
        (_, Some(place)) => place,
    };
    let forward = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", place.forward())),
        None => PathAndQuery::try_from(place.forward()),
    };
    Ok(Target::Backend(BackendTarget {
        token: place.token.to_owned(),
        is_static: place.is_static,
        forward: forward.map_err(|_| InvalidTarget::NotAPath)?,
        verified_path: path.to_owned(),
        port: place.port.map(str::to_owned),
        prefix: place.prefix,
    }))
}

/// The same where the host says whose it is: all of the path is the application's.
pub fn whole(is_plain_connect: bool, uri: &Uri) -> Result<BackendTarget, InvalidTarget> {
    let path = uri.path();
    if is_plain_connect || !path.starts_with('/') {
        return Err(InvalidTarget::NotAPath);
    }
    let forward = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    Ok(BackendTarget {
        token: String::new(),
        is_static: false,
        forward: forward.map_err(|_| InvalidTarget::NotAPath)?,
        verified_path: path.to_owned(),
        port: None,
        prefix: 0,
    })
}

/// `debug` of `/_port/debug/…`. The segment is ours whatever follows it, so that a port is never
/// taken for a path.
fn port_in(after_token: &str) -> Option<&str> {
    let rest = after_token.strip_prefix('/')?.strip_prefix(PORT_SEGMENT)?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest.split('/').next().unwrap_or_default()),
        None => rest.is_empty().then_some(""),
    }
}

/// The port that was asked for by name, in the host or in the path.
pub fn port_named<'a>(
    in_host: OwnHost<'a>,
    in_path: Option<&'a str>,
) -> Result<Option<&'a str>, InvalidTarget> {
    match (in_host, in_path) {
        (OwnHost::Port(in_host), Some(in_path)) if in_host != in_path => Err(InvalidTarget::TwoPorts),
        (OwnHost::Port(named), _) | (_, Some(named)) => Ok(Some(named)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(uri: &str, expect: (&str, bool, &str, &str)) {
        let uri: Uri = uri.parse().unwrap();
        let Ok(Target::Backend(found)) = target(false, &uri) else { panic!("{uri} is a backend's") };
        let found =
            (found.token.as_str(), found.is_static, found.forward.as_str(), found.verified_path.as_str());
        assert_eq!(found, expect, "{uri}");
    }

    #[test]
    fn the_token_is_taken_off_and_the_rest_stays() {
        check("/tok", ("tok", false, "/", "/tok"));
        check("/tok/", ("tok", false, "/", "/tok/"));
        check("/tok?a=b", ("tok", false, "/?a=b", "/tok"));
        check("/tok/a/b?c=/d?e", ("tok", false, "/a/b?c=/d?e", "/tok/a/b"));
        check("/tok//a/../b", ("tok", false, "//a/../b", "/tok//a/../b"));
        check("/tok/%2e%2e/%00", ("tok", false, "/%2e%2e/%00", "/tok/%2e%2e/%00"));
        check("http://host:1/tok/a", ("tok", false, "/a", "/tok/a"));
        check("/readyness", ("readyness", false, "/", "/readyness"));
        check("//a", ("", false, "/a", "//a"));
    }

    #[test]
    fn a_static_token_leaves_the_path_as_it_is() {
        check("/s.tok/a?b", ("tok", true, "/s.tok/a?b", "/s.tok/a"));
        check("/s.tok", ("tok", true, "/s.tok", "/s.tok"));
        check("/s./a", ("", true, "/s./a", "/s./a"));
    }

    #[test]
    fn what_belongs_to_the_proxy_and_what_is_no_path() {
        assert_eq!(target(false, &"/".parse().unwrap()), Ok(Target::Root));
        assert_eq!(target(false, &"/?a".parse().unwrap()), Ok(Target::Root));
        assert_eq!(target(false, &"/ready".parse().unwrap()), Ok(Target::Ready));
        assert_eq!(target(false, &"*".parse().unwrap()), Err(InvalidTarget::NotAPath));
        assert_eq!(target(false, &"a:80".parse().unwrap()), Err(InvalidTarget::NotAPath));
        assert_eq!(target(true, &"/tok/".parse().unwrap()), Err(InvalidTarget::NotAPath));
    }

    #[test]
    fn on_a_host_of_its_own_the_path_is_whole() {
        for (uri, forward, path) in [
            ("/", "/", "/"),
            ("/ready", "/ready", "/ready"),
            ("/s.tok/_port/a?b=c", "/s.tok/_port/a?b=c", "/s.tok/_port/a"),
            ("http://h:1//a", "//a", "//a"),
        ] {
            let found = whole(false, &uri.parse().unwrap()).unwrap();
            assert_eq!((found.forward.as_str(), &*found.verified_path), (forward, path), "{uri}");
            assert_eq!((found.port, found.token.as_str()), (None, ""), "{uri}");
        }
        assert_eq!(whole(false, &"*".parse().unwrap()), Err(InvalidTarget::NotAPath));
        assert_eq!(whole(true, &"/a".parse().unwrap()), Err(InvalidTarget::NotAPath));
    }

    #[test]
    fn a_port_in_the_path_is_taken_off_with_the_token() {
        for (uri, port, forward, prefix) in [
            ("/tok/a", None, "/a", "/tok"),
            ("/tok/_port/debug/a/b?c", Some("debug"), "/a/b?c", "/tok/_port/debug"),
            ("/tok/_port/debug/", Some("debug"), "/", "/tok/_port/debug"),
            ("/tok/_port/debug", Some("debug"), "/", "/tok/_port/debug"),
            ("/tok/_port/", Some(""), "/", "/tok/_port/"),
            ("/tok/_port", Some(""), "/", "/tok/_port"),
            ("/tok/_port//x", Some(""), "/x", "/tok/_port/"),
            ("/tok/_ports/x", None, "/_ports/x", "/tok"),
            ("/tok/a/_port/x", None, "/a/_port/x", "/tok"),
            ("/tok//_port/x", None, "//_port/x", "/tok"),
            ("/tok/%5fport/x", None, "/%5fport/x", "/tok"),
            ("/s.tok/_port/debug/a", Some("debug"), "/s.tok/_port/debug/a", "/s.tok/_port/debug"),
        ] {
            let Ok(Target::Backend(found)) = target(false, &uri.parse().unwrap()) else { panic!("{uri}") };
            assert_eq!(found.port.as_deref(), port, "{uri}");
            assert_eq!(found.forward, forward, "{uri}");
            assert_eq!(found.shared().prefix, prefix, "{uri}");
        }
    }

    #[test]
    fn a_port_has_one_name() {
        let table = [
            (OwnHost::Main, "/tok/", Ok(None)),
            (OwnHost::Main, "/tok/_port/a/", Ok(Some("a"))),
            (OwnHost::Port("a"), "/tok/", Ok(Some("a"))),
            (OwnHost::Port("a"), "/tok/_port/a/", Ok(Some("a"))),
            (OwnHost::Port("a"), "/tok/_port/b/", Err(InvalidTarget::TwoPorts)),
        ];
        for (in_host, uri, expect) in table {
            let Ok(Target::Backend(found)) = target(false, &uri.parse().unwrap()) else { panic!("{uri}") };
            assert_eq!(port_named(in_host, found.port.as_deref()), expect, "{in_host:?} {uri}");
        }
    }

    #[test]
    fn there_is_exactly_one_host() {
        let table: &[(&str, &[&str], Result<&str, InvalidTarget>)] = &[
            ("/a", &["Example.com"], Ok("example.com")),
            ("/a", &["[::1]:80"], Ok("[::1]:80")),
            ("/a", &[], Err(InvalidTarget::Host)),
            ("/a", &["a", "a"], Err(InvalidTarget::Host)),
            ("/a", &[""], Err(InvalidTarget::HostSyntax)),
            ("/a", &["a/b"], Err(InvalidTarget::HostSyntax)),
            ("/a", &["u@a"], Err(InvalidTarget::HostSyntax)),
            ("/a", &["a b"], Err(InvalidTarget::HostSyntax)),
            ("http://a:1/", &["A:1"], Ok("a:1")),
            ("http://b:1/", &["a:1"], Err(InvalidTarget::HostMismatch)),
            ("http://u@a:1/", &["a:1"], Err(InvalidTarget::HostMismatch)),
        ];
        for (uri, hosts, expect) in table {
            let mut headers = HeaderMap::new();
            for host in *hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            let found = host(Version::HTTP_11, &uri.parse().unwrap(), &headers);
            assert_eq!(found, expect.map(str::to_owned), "{uri} {hosts:?}");
            // HTTP/2 wants no Host where the target has one, and is as strict otherwise.
            let found = host(Version::HTTP_2, &uri.parse().unwrap(), &headers);
            assert_eq!(found, expect.map(str::to_owned), "{uri} {hosts:?}");
        }
        let in_http_2 = |uri: &str| host(Version::HTTP_2, &uri.parse().unwrap(), &HeaderMap::new());
        assert_eq!(in_http_2("http://A:1/"), Ok("a:1".to_owned()));
        assert_eq!(in_http_2("http://u@a:1/"), Err(InvalidTarget::HostSyntax));
        assert_eq!(in_http_2("/"), Err(InvalidTarget::Host));
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "/[!-~]{0,80}") {
            if let Ok(uri) = path.parse::<Uri>() {
                let _either = target(false, &uri);
            }
        }
    }
}
