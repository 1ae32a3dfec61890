//! Cookies as a browser of today reads them (RFC 6265, and the draft that follows it): none reaches
//! beyond its session.

use crate::headers::Shared;

/// A browser passes over an attribute with a longer value (RFC 6265bis §5.6).
const VALUE_BYTES_MAX: usize = 1024;

/// `given`: by the application; `set`: what the browser gets of them. `shared` is `None` where the
/// session has an origin of its own.
pub fn confined(given: &[&[u8]], set: &[&[u8]], shared: Option<&Shared<'_>>) {
    let given: Vec<&[u8]> = given.iter().copied().filter(|cookie| !is_the_proxys(cookie)).collect();
    assert_eq!(set.len(), given.len(), "cookies are lost");
    for (given, set) in given.iter().zip(set) {
        assert_eq!(kept(given, shared.is_some()), kept(set, shared.is_some()), "{set:?} of {given:?}");
    }
    for cookie in set {
        let text = cookie.escape_ascii();
        assert!(!attributes(cookie).any(|(name, _)| name == b"domain"), "{text}");
        let Some(shared) = shared else { continue };
        let path = path(cookie, shared.asked.as_bytes());
        let below = path.strip_prefix(shared.prefix.as_bytes());
        let is_below = below.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        assert!(is_below, "{text} goes to {}, not below {}", path.escape_ascii(), shared.prefix);
    }
}

/// A browser takes a cookie without a name for the one that its value names.
pub fn is_the_proxys(cookie: &[u8]) -> bool {
    let pair = cookie.split(|byte| *byte == b';').next().unwrap_or_default();
    let text = String::from_utf8_lossy(pair).to_ascii_lowercase();
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let text = text.strip_prefix('=').unwrap_or(text);
    let name = text.split('=').next().unwrap_or_default().trim_matches(|c: char| c.is_ascii_whitespace());
    name == "__host-jetway" || name.starts_with("__host-jetway-")
}

fn attributes(cookie: &[u8]) -> impl Iterator<Item = (Vec<u8>, &[u8])> {
    cookie.split(|byte| *byte == b';').skip(1).map(|part| {
        let end = part.iter().position(|byte| *byte == b'=');
        let (name, value) =
            (&part[..end.unwrap_or(part.len())], end.map_or(&b""[..], |end| &part[end + 1..]));
        (name.trim_ascii().to_ascii_lowercase(), value.trim_ascii())
    })
}

/// The name, the value, and all that is not about where it goes.
fn kept(cookie: &[u8], is_shared: bool) -> Vec<(Vec<u8>, &[u8])> {
    // White space around it is nobody's (RFC 6265 §5.2), and may be lost on the way.
    let pair = cookie.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is_place = |name: &[u8]| name == b"domain" || (is_shared && name == b"path");
    let others = attributes(cookie).filter(|(name, _)| !is_place(name));
    std::iter::once((Vec::new(), pair)).chain(others).collect()
}

/// Where a browser that asked for `asked` sends it: the last path counts, and one that is none
/// means the directory.
fn path<'a>(cookie: &'a [u8], asked: &'a [u8]) -> &'a [u8] {
    let known = attributes(cookie).filter(|(_, value)| value.len() <= VALUE_BYTES_MAX);
    let last = known.filter(|(name, _)| name == b"path").last();
    match last {
        Some((_, path)) if path.starts_with(b"/") => path,
        _ => match asked.iter().rposition(|byte| *byte == b'/') {
            Some(slash) if slash > 0 => &asked[..slash],
            _ => b"/",
        },
    }
}
