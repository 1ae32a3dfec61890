//! The name of an image: what is a well-formed one, which registry it means, which tag. Not its business: whether it
//! exists.

use std::fmt;

/// Docker's own limit on the name is 255; a tag has 128 and a digest 71 more.
const REFERENCE_BYTES_MAX: usize = 500;
const HUB: &str = "docker.io";
/// The name under which Docker's configuration file keeps the login of its own registry.
pub const HUB_LOGIN: &str = "https://index.docker.io/v1/";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// As the user wrote it, without tag and digest.
    pub name: String,
    pub registry: String,
    pub tag: Option<String>,
    pub digest: Option<String>,
    /// It is an engine's content id: no registry can have it.
    pub is_id: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of an image (as registry.example/team/name:tag)")]
pub struct InvalidReference(String);

impl Reference {
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let invalid = || InvalidReference(text.chars().take(80).collect());
        if text.len() > REFERENCE_BYTES_MAX {
            return Err(invalid());
        }
        if let Some(id) = text.strip_prefix("sha256:") {
            let is_id = id.len() == 64 && id.bytes().all(is_lower_hex);
            let id = Self { name: text.to_owned(), registry: HUB.to_owned(), tag: None, digest: None, is_id };
            return if is_id { Ok(id) } else { Err(invalid()) };
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(invalid()),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path),
            _ => (HUB, name),
        };
        let is_good = tag.as_deref().is_none_or(is_tag) && path.split('/').all(is_path_component);
        let reference =
            Self { name: name.to_owned(), registry: registry.to_owned(), tag, digest, is_id: false };
        if is_good { Ok(reference) } else { Err(invalid()) }
    }

    /// What the engine pulls: without it, it would pull every tag.
    pub fn pulled_tag(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// The server's name in Docker's configuration file.
    pub fn login_server(&self) -> &str {
        if self.registry == HUB || self.registry == "index.docker.io" { HUB_LOGIN } else { &self.registry }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match (&self.tag, &self.digest) {
            (_, Some(digest)) => write!(f, "@{digest}"),
            (Some(tag), None) => write!(f, ":{tag}"),
            (None, None) if self.is_id => Ok(()),
            (None, None) => f.write_str(":latest"),
        }
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    (text == "localhost" || text.contains(['.', ':']))
        && host.split('.').all(is_host_label)
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_host_label(text: &str) -> bool {
    let ends_well = !text.starts_with('-') && !text.ends_with('-');
    !text.is_empty() && ends_well && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_well = bytes.first().is_some_and(|b| is_word(*b)) && bytes.last().is_some_and(|b| is_word(*b));
    let separators_are_known = text
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'));
    ends_well && separators_are_known
}

fn is_tag(text: &str) -> bool {
    let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    starts_well
        && text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_lower_hex))
}

fn is_lower_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let hex = "a".repeat(64);
        for (text, registry, tag, shown) in [
            ("alpine", "docker.io", "latest", "alpine:latest"),
            ("alpine:3", "docker.io", "3", "alpine:3"),
            ("team/app", "docker.io", "latest", "team/app:latest"),
            ("ghcr.io/a/b-c__d:v1.0_x", "ghcr.io", "v1.0_x", "ghcr.io/a/b-c__d:v1.0_x"),
            ("localhost:5000/a", "localhost:5000", "latest", "localhost:5000/a:latest"),
            ("localhost/a:t", "localhost", "t", "localhost/a:t"),
            ("127.0.0.1:5000/a/b:t", "127.0.0.1:5000", "t", "127.0.0.1:5000/a/b:t"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(
                (reference.registry.as_str(), reference.pulled_tag(), reference.to_string().as_str()),
                (registry, tag, shown)
            );
        }
        let pinned = Reference::parse(&format!("a:t@sha256:{hex}")).unwrap();
        assert_eq!(pinned.pulled_tag(), format!("sha256:{hex}"));
        assert_eq!(pinned.login_server(), HUB_LOGIN);
        assert!(Reference::parse(&format!("sha256:{hex}")).unwrap().is_id);
    }

    #[test]
    fn what_could_be_taken_for_a_path_is_refused() {
        let long = "a".repeat(501);
        for bad in [
            "",
            "/",
            "a//b",
            "A",
            "a b",
            "../containers/x",
            "a/../b",
            "a?b=c",
            "a#b",
            "a%2fb",
            "a:",
            "a@x",
            "a:b:c/d",
            "-a",
            "a-",
            "a..b",
            "a/",
            "sha256:abc",
            "a\nb",
            "é",
            "x:y/z",
            long.as_str(),
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_strange_gets_through(text in "\\PC{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                let shown = reference.to_string();
                prop_assert!(shown.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b)));
                prop_assert!(!shown.contains("..") || shown.rsplit('/').next().unwrap_or("").contains(".."));
                prop_assert!(!shown.contains("/../"));
            }
        }
    }
}
