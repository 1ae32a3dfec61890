//! Hosts of sessions: in the host form a session is the root of `https://<label>.<cluster>/`.
//!
//! A label is the backend's subdomain, or derived: from the key, so that all sessions of a key have
//! one address, or from the id of a backend without a key. Pure.

use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::ids::{BackendId, ClusterName, Subdomain};

/// All that is ours on a session's host. Every other path is the application's.
pub const RESERVED: &str = "/.jetway/";
/// The cookie that lets a browser in.
pub const COOKIE: &str = "__Host-jetway";
/// Clients without cookies send their token in it, if `Authorization` is the application's.
pub const TOKEN_HEADER: &str = "x-jetway-token";
/// An entering URL is good for this long.
pub const ENTER_SECONDS: u64 = 300;
/// Characters of a label in the host form, at most: `<port>--` fits before it.
pub const LABEL_CHARS_MAX: usize = 46;
/// Between a port's name and a label.
pub const PORT_SEPARATOR: &str = "--";

const DERIVED_CHARS: usize = 26;
const OF_KEY: &str = "k-";
const OF_BACKEND: &str = "b-";

/// The key that labels are derived under. It is kept in Postgres, so that it survives a change of
/// the installation's secret.
#[derive(Clone)]
pub struct LabelKey([u8; 32]);

impl std::fmt::Debug for LabelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LabelKey(hidden)")
    }
}

impl LabelKey {
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The same for each session of a key. It says nothing of the key.
    pub fn of_key(&self, namespace: &str, name: &str) -> Subdomain {
        self.derive(OF_KEY, &[namespace, name])
    }

    /// Of a backend that has no key.
    pub fn of_backend(&self, backend: &BackendId) -> Subdomain {
        self.derive(OF_BACKEND, &[backend.as_str()])
    }

    fn derive(&self, prefix: &str, parts: &[&str]) -> Subdomain {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0).expect("any length is a key");
        for part in std::iter::once(&prefix).chain(parts) {
            // The length parts one from the next.
            mac.update(&u64::try_from(part.len()).expect("a name is short").to_be_bytes());
            mac.update(part.as_bytes());
        }
        let text = BASE32_NOPAD.encode(&mac.finalize().into_bytes()).to_ascii_lowercase();
        format!("{prefix}{}", &text[..DERIVED_CHARS]).parse().expect("letters and digits are a label")
    }
}

/// Whether a label has the shape of a derived one. Such a one is nobody's to choose.
pub fn is_derived(label: &str) -> bool {
    let rest = label.strip_prefix(OF_KEY).or_else(|| label.strip_prefix(OF_BACKEND));
    // RFC 4648 §6, in small letters.
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'2'..=b'7');
    rest.is_some_and(|rest| rest.len() == DERIVED_CHARS && rest.bytes().all(fits))
}

/// A label's port, by name, and what is behind it.
pub fn split_label(label: &str) -> (Option<&str>, &str) {
    match label.split_once(PORT_SEPARATOR) {
        Some((port, base)) => (Some(port), base),
        None => (None, label),
    }
}

/// The host that tokens of the host form are bound to: without a port's name, with the cluster's
/// own port.
pub fn base_host(label: &str, cluster: &ClusterName) -> String {
    format!("{label}.{cluster}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_the_same_for_each_session_of_a_key() {
        let (one, other) = (LabelKey::new([1; 32]), LabelKey::new([2; 32]));
        let label = one.of_key("team", "notes");
        assert_eq!(label, one.of_key("team", "notes"));
        assert!(is_derived(label.as_str()) && label.as_str().len() <= LABEL_CHARS_MAX, "{label}");
        let backend: BackendId = "notes".parse().unwrap();
        for different in [
            one.of_key("teamn", "otes"),
            one.of_key("", "teamnotes"),
            one.of_key("notes", "team"),
            other.of_key("team", "notes"),
            one.of_backend(&backend),
        ] {
            assert_ne!(label, different);
            assert!(is_derived(different.as_str()), "{different}");
        }
        assert!(one.of_backend(&backend).as_str().starts_with("b-"));
    }

    #[test]
    fn a_chosen_label_is_not_derived() {
        let derived = format!("k-{}", "a".repeat(26));
        assert!(is_derived(&derived));
        for label in ["k-", "notes", &derived[1..], &format!("{derived}a"), &format!("k-{}", "1".repeat(26))]
        {
            assert!(!is_derived(label), "{label}");
        }
    }

    #[test]
    fn a_port_stands_before_the_first_separator() {
        for (label, expect) in [
            ("notes", (None, "notes")),
            ("debug--notes", (Some("debug"), "notes")),
            ("debug--a--b", (Some("debug"), "a--b")),
            ("--notes", (Some(""), "notes")),
        ] {
            assert_eq!(split_label(label), expect, "{label}");
        }
    }
}
