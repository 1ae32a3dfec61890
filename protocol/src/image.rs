//! The name of an image, as the container registries' reference grammar has it: the one parser for
//! the API, placement and the drone. It does not say whether the image exists; the engine does.
//!
//! ```text
//! reference  = name [":" tag] ["@" digest] | "sha256:" 64 hex digits | 64 hex digits
//! name       = [registry "/"] component *("/" component)
//! registry   = host [":" digits]      with a ".", a ":" or "localhost" in it
//! host       = labels joined by "."  | "[" IPv6 address "]"
//! component  = 1*(a-z 0-9) joined by ".", "_", "__" or any number of "-"
//! tag        = (A-Z a-z 0-9 "_") *127(A-Z a-z 0-9 "_" "." "-")
//! digest     = "sha256:" 64, "sha384:" 96 or "sha512:" 128 hex digits
//! ```
//!
//! Two texts that mean the same image have the same [`Reference`] and the same `Display`: `alpine`,
//! `docker.io/library/alpine` and `alpine:latest` are all `alpine:latest`, which is how an engine
//! lists it.
//!
//! Engines of different versions disagree in three places, and here this parser decides: a registry
//! in capitals without a dot (`Team/app`) is refused, because older engines refuse it and newer
//! ones look for a host named `Team`; a registry by its IPv6 address is accepted, as newer engines
//! do; and `sha256:` with fewer digits than an id has is refused, because an engine may take it for
//! part of an id.

use std::fmt;

/// Of a name with its registry.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;
const HUB: &str = "docker.io";
/// Another name of [`HUB`].
const HUB_INDEX: &str = "index.docker.io";
/// Where [`HUB`] keeps the images whose names have one component.
const HUB_OFFICIAL: &str = "library/";
const TAG_DEFAULT: &str = "latest";
const ID_ALGORITHM: &str = "sha256";
const ID_DIGITS: usize = 64;
/// The digests that engines know, and how many hexadecimal digits they have.
const DIGESTS: [(&str, usize); 3] = [(ID_ALGORITHM, ID_DIGITS), ("sha384", 96), ("sha512", 128)];
/// What a message repeats of a text that is no reference.
const SHOWN_CHARACTERS: usize = 80;

/// A well-formed name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    /// In the shortest form that means the same, as engines show it, without tag and digest. Empty
    /// for an id.
    name: String,
    version: Version<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Version<T> {
    Tag(T),
    /// A tag beside it says nothing: the engine goes by the digest.
    Digest(T),
    /// The digits of an engine's content id: no registry can have it.
    Id(T),
}

impl<T: fmt::Display> fmt::Display for Version<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
            Version::Id(hex) => write!(f, "{ID_ALGORITHM}:{hex}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown:?} is not the name of an image (as registry.example/team/name:tag): {problem}")]
pub struct InvalidReference {
    shown: String,
    problem: &'static str,
}

impl Reference {
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let parts = Parts::of(text).map_err(|problem| InvalidReference {
            shown: text.chars().take(SHOWN_CHARACTERS).collect(),
            problem,
        })?;
        let version = match parts.version {
            Version::Tag(tag) => Version::Tag(tag.to_owned()),
            Version::Digest(digest) => Version::Digest(digest.to_owned()),
            Version::Id(hex) => Version::Id(hex.to_owned()),
        };
        Ok(Self { registry: parts.registry.to_owned(), name: parts.name(), version })
    }

    /// The host that a pull asks, with its port. `docker.io` where the text names none.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Whether it is an engine's content id, which cannot be pulled.
    pub fn is_id(&self) -> bool {
        matches!(self.version, Version::Id(_))
    }

    /// The name without tag and digest, as an engine takes it. Empty for an id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The digest, else the tag, else `latest`: a pull without it would bring every tag.
    pub fn version(&self) -> &str {
        let (Version::Tag(version) | Version::Digest(version) | Version::Id(version)) = &self.version;
        version
    }

    /// One spelling for the names that an engine treats alike. A text that is no reference stands
    /// for itself.
    pub fn canonical(text: &str) -> String {
        Parts::of(text).map_or_else(|_| text.to_owned(), |parts| parts.to_string())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.version.fmt(f)
    }
}

/// A reference as slices of its text: placement compares thousands of names a second.
struct Parts<'a> {
    registry: &'a str,
    /// What the shortest name that is read as the same one has before `path`.
    prefix: [&'a str; 2],
    path: &'a str,
    version: Version<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self, &'static str> {
        if let Some(hex) = id(text)? {
            return Ok(Self { registry: HUB, prefix: ["", ""], path: "", version: Version::Id(hex) });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest)),
            Some(_) => return Err("a digest is sha256: and 64 hexadecimal digits"),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if !tag.is_none_or(is_tag) {
            return Err(
                "a tag has 1 to 128 letters, digits, \"_\", \".\" and \"-\", and begins with no \".\" or \"-\"",
            );
        }
        let (registry, path) = split(name);
        check_name(registry, path)?;
        let (prefix, path) = shortest(registry, path);
        let version = digest.map_or_else(|| Version::Tag(tag.unwrap_or(TAG_DEFAULT)), Version::Digest);
        Ok(Self { registry, prefix, path, version })
    }

    fn name(&self) -> String {
        [self.prefix[0], self.prefix[1], self.path].concat()
    }
}

impl fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [self.prefix[0], self.prefix[1], self.path] {
            f.write_str(part)?;
        }
        self.version.fmt(f)
    }
}

fn check_name(registry: &str, path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("it must be in lower case");
    }
    if !path.split('/').all(is_component) {
        return Err("between \"/\" it has letters and digits, joined by \".\", \"_\", \"__\" or \"-\"");
    }
    // An engine takes a first component that cannot be a host for one of the path all the same.
    if !is_registry(registry) && !is_component(registry) {
        return Err("its registry must be a host name, with or without a port");
    }
    let is_official = registry == HUB && !path.contains('/');
    let whole = registry.len() + 1 + path.len() + if is_official { HUB_OFFICIAL.len() } else { 0 };
    if whole > NAME_BYTES_MAX { Err("with its registry it may have 255 bytes") } else { Ok(()) }
}

/// The digits of the id, where the text is one.
fn id(text: &str) -> Result<Option<&str>, &'static str> {
    let is_id = |hex: &str| hex.len() == ID_DIGITS && is_lower_hex(hex);
    match text.split_once(':') {
        None if is_id(text) => Ok(Some(text)),
        Some((ID_ALGORITHM, hex)) if is_id(hex) => Ok(Some(hex)),
        Some((ID_ALGORITHM, _)) => Err("an image's id has 64 hexadecimal digits"),
        _ => Ok(None),
    }
}

/// Registry and path.
fn split(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((HUB | HUB_INDEX, path)) => (HUB, path),
        Some((first, path)) if may_be_registry(first) => (first, path),
        _ => (HUB, name),
    }
}

/// The shortest name that is read as the same one again: what goes before, and the rest.
fn shortest<'a>(registry: &'a str, path: &'a str) -> ([&'a str; 2], &'a str) {
    if registry != HUB {
        return ([registry, "/"], path);
    }
    let short = match path.strip_prefix(HUB_OFFICIAL) {
        Some(short) if !short.contains('/') => short,
        _ => path,
    };
    let is_taken_for_id = short == ID_ALGORITHM || (short.len() == ID_DIGITS && is_lower_hex(short));
    match short.split_once('/') {
        Some((first, _)) if may_be_registry(first) => ([HUB, "/"], short),
        None if is_taken_for_id => ([HUB, "/library/"], short),
        _ => (["", ""], short),
    }
}

fn may_be_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let is_address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inside| inside.parse::<std::net::Ipv6Addr>().is_ok());
    port.is_none_or(is_port) && (is_address || host.split('.').all(is_host_label))
}

fn is_host_label(text: &str) -> bool {
    let ends_well = !text.starts_with('-') && !text.ends_with('-');
    !text.is_empty() && ends_well && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|b| b == b'-');
    text.starts_with(is_word) && text.ends_with(is_word) && text.split(is_word).all(is_separator)
}

fn is_tag(text: &str) -> bool {
    (1..=TAG_BYTES_MAX).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    text.split_once(':')
        .is_some_and(|(algorithm, hex)| DIGESTS.contains(&(algorithm, hex.len())) && is_lower_hex(hex))
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
