//! What a request's line and Host say: which URL form it is, which token it carries, what the backend gets to see.
//!
//! Pure. Whether the token is any good is not decided here.

use http::header::{HOST, HeaderMap};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Uri};
use jetway_protocol::ids::ClusterName;
use jetway_protocol::token::STATIC_PREFIX;

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
    /// What the backend is asked for.
    pub forward: PathAndQuery,
    /// `x-verified-path`: the path as the client sent it, without the query.
    pub verified_path: String,
}

/// A request that names no place at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidTarget {
    Host,
    HostSyntax,
    HostMismatch,
    NotAPath,
}

impl InvalidTarget {
    /// For the request's sender.
    pub fn text(self) -> &'static str {
        match self {
            InvalidTarget::Host => "a request needs exactly one Host header",
            InvalidTarget::HostSyntax => "the Host header is not a host name with an optional port",
            InvalidTarget::HostMismatch => "the request target names another host than the Host header",
            InvalidTarget::NotAPath => "the request target must be a path",
        }
    }
}

/// The one Host of a request. An absolute-form target (RFC 9112 §3.2.2) must name the same one.
pub fn host(uri: &Uri, headers: &HeaderMap) -> Result<String, InvalidTarget> {
    let mut values = headers.get_all(HOST).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(InvalidTarget::Host) };
    let text = value.to_str().map_err(|_| InvalidTarget::HostSyntax)?;
    let authority: Authority = text.parse().map_err(|_| InvalidTarget::HostSyntax)?;
    if authority.host().is_empty() || text.contains('@') {
        return Err(InvalidTarget::HostSyntax);
    }
    match uri.authority() {
        Some(named) if !named.as_str().eq_ignore_ascii_case(text) => Err(InvalidTarget::HostMismatch),
        _ => Ok(text.to_ascii_lowercase()),
    }
}

pub fn target(method: &Method, uri: &Uri) -> Result<Target, InvalidTarget> {
    let path = uri.path();
    if method == Method::CONNECT || !path.starts_with('/') {
        return Err(InvalidTarget::NotAPath);
    }
    match path {
        "/" => return Ok(Target::Root),
        "/ready" => return Ok(Target::Ready),
        _ => {}
    }
    let segment = path[1..].split('/').next().unwrap_or_default();
    let (token, is_static) = match segment.strip_prefix(STATIC_PREFIX) {
        Some(token) => (token, true),
        None => (segment, false),
    };
    let after = if is_static { path } else { &path[1 + segment.len()..] };
    let after = if after.is_empty() { "/" } else { after };
    let forward = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{after}?{query}")),
        None => PathAndQuery::try_from(after),
    };
    Ok(Target::Backend(BackendTarget {
        token: token.to_owned(),
        is_static,
        forward: forward.map_err(|_| InvalidTarget::NotAPath)?,
        verified_path: path.to_owned(),
    }))
}

/// Whether a request under `host` may reach a backend that has `subdomain`. A missing port is the scheme's.
pub fn host_fits(host: &str, subdomain: &str, cluster: &ClusterName) -> bool {
    let (name, port) = split_port(host);
    let (cluster_name, cluster_port) = split_port(cluster.as_str());
    let ports_fit = match (port, cluster_port) {
        (given, Some(wanted)) => given == Some(wanted) || (given.is_none() && matches!(wanted, "80" | "443")),
        (given, None) => matches!(given, None | Some("80" | "443")),
    };
    let name_fits =
        name.strip_suffix(cluster_name).and_then(|rest| rest.strip_suffix('.')) == Some(subdomain);
    name_fits && ports_fit
}

fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            (name, Some(port))
        }
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(uri: &str, expect: (&str, bool, &str, &str)) {
        let uri: Uri = uri.parse().unwrap();
        let Ok(Target::Backend(found)) = target(&Method::GET, &uri) else { panic!("{uri} is a backend's") };
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
        assert_eq!(target(&Method::GET, &"/".parse().unwrap()), Ok(Target::Root));
        assert_eq!(target(&Method::GET, &"/?a".parse().unwrap()), Ok(Target::Root));
        assert_eq!(target(&Method::GET, &"/ready".parse().unwrap()), Ok(Target::Ready));
        assert_eq!(target(&Method::OPTIONS, &"*".parse().unwrap()), Err(InvalidTarget::NotAPath));
        assert_eq!(target(&Method::CONNECT, &"a:80".parse().unwrap()), Err(InvalidTarget::NotAPath));
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
            let found = host(&uri.parse().unwrap(), &headers);
            assert_eq!(found, expect.map(str::to_owned), "{uri} {hosts:?}");
        }
    }

    #[test]
    fn a_subdomain_wants_its_own_host() {
        let table = [
            ("sub.example.com", "example.com", true),
            ("sub.example.com:443", "example.com", true),
            ("sub.example.com:8443", "example.com", false),
            ("sub.localhost:9090", "localhost:9090", true),
            ("sub.localhost", "localhost:9090", false),
            ("example.com", "example.com", false),
            (".example.com", "example.com", false),
            ("evil-sub.example.com", "example.com", false),
            ("other.sub.example.com", "example.com", false),
            ("sub.example.com.evil.org", "example.com", false),
            ("subxexample.com", "example.com", false),
        ];
        for (host, cluster, expect) in table {
            assert_eq!(host_fits(host, "sub", &cluster.parse().unwrap()), expect, "{host} in {cluster}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "/[!-~]{0,80}") {
            if let Ok(uri) = path.parse::<Uri>() {
                let _either = target(&Method::GET, &uri);
            }
        }
    }
}
