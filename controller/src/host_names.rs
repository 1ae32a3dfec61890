//! Hosts as the table `hosts` names them: in lower case, and without a port, because a browser's
//! cookies know none. Pure.

use jetway_protocol::host::{LABEL_CHARS_MAX, PORT_SEPARATOR, is_derived, split_label};
use jetway_protocol::ids::{ClusterName, Subdomain};

/// Of a host name, as DNS has it.
const NAME_BYTES_MAX: usize = 253;
const PORT_CHARS_MAX: usize = 5;

pub fn below(cluster: &ClusterName, label: &str) -> String {
    format!("{label}.{}", cluster.host())
}

/// The hosts that a backend with this subdomain must not share with another owner's in the host
/// form: its own, and the one that its own looks like a port's of.
pub fn of_subdomain(subdomain: &Subdomain, cluster: &ClusterName) -> Vec<String> {
    let label = subdomain.as_str();
    let base = split_label(label).1;
    let mut hosts = vec![below(cluster, label)];
    if base != label {
        hosts.push(below(cluster, base));
    }
    hosts
}

/// Whether a chosen label leaves room for a port's name before it, and is neither such a one itself
/// nor another owner's by its shape: an older controller lets that pass.
pub fn may_be_host_form(label: &Subdomain) -> bool {
    let label = label.as_str();
    label.len() <= LABEL_CHARS_MAX && !label.contains(PORT_SEPARATOR) && !is_derived(label)
}

/// The names of clusters under which browsers reach the same hosts: with and without the port of HTTPS.
pub fn spellings(cluster: &ClusterName) -> Vec<String> {
    match cluster.scheme() {
        "https" => vec![cluster.host().to_owned(), format!("{}:443", cluster.host())],
        _ => vec![cluster.to_string()],
    }
}

/// A host as a proxy asks for it, perhaps with the cluster's port. `None`: no session's.
pub fn asked(text: &str) -> Option<String> {
    let name = match text.rsplit_once(':') {
        Some((name, port)) => {
            let is_port =
                (1..=PORT_CHARS_MAX).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
            is_port.then_some(name)?
        }
        None => text,
    };
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_fine);
    is_name.then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subdomain_shares_its_own_host_and_its_base() {
        let cluster: ClusterName = "localhost:9090".parse().unwrap();
        let (fits, long) = ("a".repeat(46), "a".repeat(47));
        let derived = format!("k-{}", "a".repeat(26));
        assert!(!may_be_host_form(&derived.parse().unwrap()), "an older controller lets it pass");
        let (fits_host, long_host) = (format!("{fits}.localhost"), format!("{long}.localhost"));
        for (subdomain, hosts, in_host_form) in [
            ("notes", vec!["notes.localhost"], true),
            ("debug--notes", vec!["debug--notes.localhost", "notes.localhost"], false),
            ("xn--a--b", vec!["xn--a--b.localhost", "a--b.localhost"], false),
            (fits.as_str(), vec![fits_host.as_str()], true),
            (long.as_str(), vec![long_host.as_str()], false),
        ] {
            let subdomain: Subdomain = subdomain.parse().unwrap();
            assert_eq!(of_subdomain(&subdomain, &cluster), hosts);
            assert_eq!(may_be_host_form(&subdomain), in_host_form, "{subdomain}");
        }
    }

    #[test]
    fn a_cluster_on_https_has_two_spellings() {
        for (cluster, spellings_of) in [
            ("example.com", vec!["example.com", "example.com:443"]),
            ("example.com:443", vec!["example.com", "example.com:443"]),
            ("localhost:9090", vec!["localhost:9090"]),
        ] {
            assert_eq!(spellings(&cluster.parse().unwrap()), spellings_of, "{cluster}");
        }
    }

    #[test]
    fn a_host_is_asked_for_with_or_without_its_port() {
        let long = "a".repeat(254);
        for (text, host) in [
            ("notes.localhost:9090", Some("notes.localhost")),
            ("Doc.Customer.example", Some("doc.customer.example")),
            ("", None),
            (":80", None),
            ("a:", None),
            ("a:123456", None),
            ("a:8x", None),
            ("a b", None),
            ("a\0", None),
            ("é.example", None),
            (long.as_str(), None),
        ] {
            assert_eq!(asked(text).as_deref(), host, "{text:?}");
        }
    }
}
