//! Which hosts lead to which session. Only a name that is ours leads to any: under every other,
//! scripts of one session would run with the cookies of another's origin.
//!
//! Pure. `target` sees that a request has exactly one Host.

use std::net::{Ipv4Addr, Ipv6Addr};

use jetway_protocol::ids::ClusterName;

/// Between a port's name and a subdomain.
const PORT_SEPARATOR: &str = "--";

/// The kinds of Host that a request can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind<'a> {
    /// The cluster's own name, or an address, as behind a port-forward. At any port.
    Own,
    /// `<label>.<cluster>`, at the cluster's port.
    Below(&'a str),
    /// Every other host, one with a certificate of its own among them.
    Foreign,
}

impl<'a> HostKind<'a> {
    pub fn of(host: &'a str, cluster: &ClusterName) -> Self {
        let (name, port) = split_port(host);
        let (cluster_name, cluster_port) = split_port(cluster.as_str());
        if name == cluster_name || is_address(name) {
            return HostKind::Own;
        }
        let label = name.strip_suffix(cluster_name).and_then(|rest| rest.strip_suffix('.'));
        // A missing port is the scheme's.
        let ports_fit = match (port, cluster_port) {
            (given, Some(wanted)) => {
                given == Some(wanted) || (given.is_none() && matches!(wanted, "80" | "443"))
            }
            (given, None) => matches!(given, None | Some("80" | "443")),
        };
        label.filter(|_| ports_fit).map_or(HostKind::Foreign, HostKind::Below)
    }

    /// Whether it leads to a backend that has this subdomain, or none, and which port it names.
    pub fn leads_to(self, subdomain: Option<&str>) -> OwnHost<'a> {
        let (label, subdomain) = match (self, subdomain) {
            (HostKind::Own, None) => return OwnHost::Main,
            (HostKind::Below(label), Some(subdomain)) => (label, subdomain),
            (HostKind::Own, Some(_)) | (HostKind::Below(_), None) | (HostKind::Foreign, _) => {
                return OwnHost::No;
            }
        };
        if label == subdomain {
            return OwnHost::Main;
        }
        let port = label.strip_suffix(subdomain).and_then(|rest| rest.strip_suffix(PORT_SEPARATOR));
        port.filter(|port| !port.contains('.')).map_or(OwnHost::No, OwnHost::Port)
    }
}

/// A host's word on one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnHost<'a> {
    /// It is another's.
    No,
    Main,
    Port(&'a str),
}

/// As addresses are written in a URL, and the one name that is always this machine's.
pub fn is_address(name: &str) -> bool {
    match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => name == "localhost" || name.parse::<Ipv4Addr>().is_ok(),
    }
}

/// A Host's name and port.
pub fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            (name, Some(port))
        }
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_served_under_its_own_hosts_alone() {
        use OwnHost::{Main, No, Port};
        // Host, cluster, to a backend without a subdomain, and to one that has `sub`.
        let table = [
            ("example.com", "example.com", Main, No),
            ("example.com:443", "example.com", Main, No),
            ("example.com:8443", "example.com", Main, No),
            ("localhost:9090", "localhost:9090", Main, No),
            ("localhost", "localhost:9090", Main, No),
            ("localhost:1", "example.com", Main, No),
            ("127.0.0.1:9090", "example.com", Main, No),
            ("203.0.113.7", "example.com", Main, No),
            ("[::1]", "example.com", Main, No),
            ("[2001:db8::7]:443", "example.com", Main, No),
            ("sub.example.com", "example.com", No, Main),
            ("sub.example.com:443", "example.com", No, Main),
            ("sub.example.com:8443", "example.com", No, No),
            ("sub.localhost:9090", "localhost:9090", No, Main),
            ("sub.localhost", "localhost:9090", No, No),
            ("sub.localhost:9090", "example.com", No, No),
            (".example.com", "example.com", No, No),
            ("example.com.", "example.com", No, No),
            ("sub.example.com.", "example.com", No, No),
            ("localhost.", "example.com", No, No),
            ("127.0.0.1.", "example.com", No, No),
            ("127.1", "example.com", No, No),
            ("0x7f000001", "example.com", No, No),
            ("[::1", "example.com", No, No),
            ("::1", "example.com", No, No),
            ("example.com:", "example.com", No, No),
            ("shop.customer.org", "example.com", No, No),
            ("com", "example.com", No, No),
            ("evilexample.com", "example.com", No, No),
            ("evil-sub.example.com", "example.com", No, No),
            ("other.sub.example.com", "example.com", No, No),
            ("example.com.evil.org", "example.com", No, No),
            ("sub.example.com.evil.org", "example.com", No, No),
            ("subxexample.com", "example.com", No, No),
            ("debug--sub.example.com", "example.com", No, Port("debug")),
            ("debug--sub.example.com:8443", "example.com", No, No),
            ("--sub.example.com", "example.com", No, Port("")),
            ("debug-sub.example.com", "example.com", No, No),
            ("debug--sub.localhost:9090", "localhost:9090", No, Port("debug")),
            ("debug--other.example.com", "example.com", No, No),
            ("a.debug--sub.example.com", "example.com", No, No),
        ];
        for (host, cluster, without, with) in table {
            let kind = HostKind::of(host, &cluster.parse().unwrap());
            assert_eq!(kind.leads_to(None), without, "{host} in {cluster}");
            assert_eq!(kind.leads_to(Some("sub")), with, "{host} in {cluster}");
        }
        let cluster = "example.com".parse().unwrap();
        let own = HostKind::of("a--b.example.com", &cluster).leads_to(Some("a--b"));
        assert_eq!(own, Main, "a subdomain may look like a port's");
    }
}
