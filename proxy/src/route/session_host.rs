//! The session's host that a request names. On the cluster's own name and on addresses, the path
//! carries the token; on every other host, the host decides first. Pure.

use jetway_protocol::host::{base_host, is_derived, split_label};
use jetway_protocol::ids::{ClusterName, PortName};

use super::hosts::{HostKind, split_port};

/// A port's name of so many characters is none in the host form: `xn--` begins an international
/// label.
const NO_PORT_CHARS: usize = 2;

/// Any host but the cluster's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionHost {
    /// Tokens of the host form are bound to it: without a port's name, below the cluster with the
    /// cluster's port, elsewhere with none.
    pub base: Box<str>,
    /// The port that the host names.
    pub port: Option<PortName>,
    /// No path carries a token there.
    pub is_derived: bool,
    /// It is not below the cluster.
    pub is_foreign: bool,
}

impl SessionHost {
    /// `None`: the cluster's own name, or an address.
    pub fn of(host: &str, cluster: &ClusterName) -> Option<Self> {
        let label = match HostKind::of(host, cluster) {
            HostKind::Own => return None,
            HostKind::Below(label) => label,
            HostKind::Foreign => {
                let base = split_port(host).0.into();
                return Some(Self { base, port: None, is_derived: false, is_foreign: true });
            }
        };
        let (named, behind) = split_label(label);
        let port = named.and_then(|name| name.parse::<PortName>().ok());
        let port = port.filter(|port| port.as_str().len() != NO_PORT_CHARS);
        let base = if port.is_some() { behind } else { label };
        Some(Self {
            base: base_host(base, cluster).into(),
            port,
            is_derived: is_derived(label) || is_derived(behind),
            is_foreign: false,
        })
    }

    /// Whether a path may carry a token there.
    pub fn takes_paths(&self) -> bool {
        !self.is_derived && !self.is_foreign
    }
}

/// The origin of a request's own host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnOrigin<'a> {
    pub scheme: &'static str,
    /// As it is compared, with the port that the client has named.
    pub host: &'a str,
}

impl OwnOrigin<'_> {
    /// `said`: the scheme of the connection, or a trusted forwarder's word on it. The host form
    /// exists by plain HTTP below `localhost` alone.
    pub fn of<'a>(host: &'a str, said: Option<&'static str>) -> OwnOrigin<'a> {
        let name = split_port(host).0;
        let is_local = name == "localhost" || name.ends_with(".localhost");
        OwnOrigin { scheme: said.unwrap_or(if is_local { "http" } else { "https" }), host }
    }

    /// `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.host)
    }

    /// Whether an `Origin` is this one (RFC 6454 §5): a scheme's own port may be left out.
    pub fn is(&self, origin: &[u8]) -> bool {
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        let Some((scheme, host)) = origin.split_once("://") else { return false };
        scheme.eq_ignore_ascii_case(self.scheme)
            && without_port_of(self.scheme, host)
                .eq_ignore_ascii_case(without_port_of(self.scheme, self.host))
    }
}

fn without_port_of<'a>(scheme: &str, host: &'a str) -> &'a str {
    let port = if scheme == "https" { ":443" } else { ":80" };
    host.strip_suffix(port).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_base_and_perhaps_a_port() {
        let derived = format!("k-{}", "a".repeat(26));
        let of_derived = |before: &str| format!("{before}{derived}.example.com");
        // Host, base, port, derived, foreign.
        let table = [
            ("sub.example.com", "sub.example.com", None, false, false),
            ("sub.example.com:443", "sub.example.com", None, false, false),
            ("debug--sub.example.com", "sub.example.com", Some("debug"), false, false),
            ("db--sub.example.com", "db--sub.example.com", None, false, false),
            ("--sub.example.com", "--sub.example.com", None, false, false),
            ("a.b--sub.example.com", "a.b--sub.example.com", None, false, false),
            ("debug--a--b.example.com", "a--b.example.com", Some("debug"), false, false),
            (&of_derived(""), &of_derived(""), None, true, false),
            (&of_derived("debug--"), &of_derived(""), Some("debug"), true, false),
            (&of_derived("xn--"), &of_derived("xn--"), None, true, false),
            ("sub.example.com:8443", "sub.example.com", None, false, true),
            ("doc.customer.org", "doc.customer.org", None, false, true),
            ("doc.customer.org:8443", "doc.customer.org", None, false, true),
            ("debug--doc.customer.org", "debug--doc.customer.org", None, false, true),
        ];
        let cluster = "example.com".parse().unwrap();
        for (host, base, port, is_derived, is_foreign) in table {
            let port = port.map(|port: &str| port.parse().unwrap());
            let expect = SessionHost { base: base.into(), port, is_derived, is_foreign };
            assert_eq!(SessionHost::of(host, &cluster), Some(expect), "{host}");
        }
        for own in ["example.com", "example.com:8443", "127.0.0.1:1", "localhost", "[::1]:9090"] {
            assert_eq!(SessionHost::of(own, &cluster), None, "{own}");
        }
        let local = SessionHost::of("debug--sub.localhost:9090", &"localhost:9090".parse().unwrap()).unwrap();
        assert_eq!(&*local.base, "sub.localhost:9090", "with the cluster's port");
    }

    #[test]
    fn an_origin_is_its_own_by_scheme_and_host() {
        let secure = OwnOrigin::of("sub.example.com", None);
        assert_eq!(secure.url("/a"), "https://sub.example.com/a");
        assert_eq!(OwnOrigin::of("a.localhost:9090", None).scheme, "http");
        assert_eq!(OwnOrigin::of("a.localhost:9090", Some("https")).scheme, "https");
        for (origin, expect) in [
            ("https://sub.example.com", true),
            ("HTTPS://Sub.Example.com", true),
            ("https://sub.example.com:443", true),
            ("http://sub.example.com", false),
            ("https://sub.example.com:8443", false),
            ("https://other.example.com", false),
            ("https://sub.example.com.evil.org", false),
            ("https://sub.example.com/", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(secure.is(origin.as_bytes()), expect, "{origin}");
            let with_port = OwnOrigin::of("sub.example.com:443", None);
            assert_eq!(with_port.is(origin.as_bytes()), expect, "{origin}");
        }
    }
}
