//! The path that a person wants to see: carried in the query of `/.jetway/enter` on the way in, and
//! in that of a return URL on the way back. Pure.

use http::Uri;
use jetway_protocol::host::RESERVED;

/// Bytes of one in a query, at most: many servers take request lines of 8 KiB.
const ENCODED_BYTES_MAX: usize = 2048;

/// A path with its query: a slash first, and nothing that a URL does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPath(String);

impl WantedPath {
    /// That of a request.
    pub fn of(uri: &Uri) -> Self {
        Self::bounded(uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes())
    }

    /// The parameter `path` of a query; without one, the root.
    pub fn in_query(query: Option<&str>) -> Self {
        Self::bounded(&decoded(parameter(query, "path").unwrap_or("/")))
    }

    fn bounded(path: &[u8]) -> Self {
        if !path.starts_with(b"/") || path.starts_with(RESERVED.as_bytes()) {
            return Self("/".to_owned());
        }
        let whole = Self(written(path));
        if whole.encoded().len() <= ENCODED_BYTES_MAX {
            return whole;
        }
        let end = whole.0.find(['?', '#']).unwrap_or(whole.0.len());
        let without_query = Self(whole.0[..end].to_owned());
        if without_query.encoded().len() <= ENCODED_BYTES_MAX { without_query } else { Self("/".to_owned()) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As the value of a parameter.
    pub fn encoded(&self) -> String {
        let mut text = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            push(&mut text, byte, byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte));
        }
        text
    }
}

/// The first value of that name, as it stands there.
pub fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find_map(|(given, value)| (given == name).then_some(value))
}

/// As forms encode: a plus is a space.
fn decoded(value: &str) -> Vec<u8> {
    let bytes = value.as_bytes();
    let (mut text, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        let digits = digits.filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let (decoded, length) = match (byte, digits.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(decoded)) => (decoded, 3),
            (b'+', _) => (b' ', 1),
            (byte, _) => (*byte, 1),
        };
        text.push(decoded);
        at += length;
    }
    text
}

/// Without the signs that a URL does not have (RFC 3986 §2).
fn written(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path {
        push(&mut text, *byte, byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(byte));
    }
    text
}

fn push(text: &mut String, byte: u8, as_it_is: bool) {
    if as_it_is {
        text.push(char::from(byte));
    } else {
        text.push_str(&format!("%{byte:02X}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wanted_path_is_one_of_this_host() {
        for (query, expect) in [
            ("", "/"),
            ("path=", "/"),
            ("token=x&path=/a%3Fb%3Dc", "/a?b=c"),
            ("path=/a&path=/b", "/a"),
            ("path=%2Fa%2520b", "/a%20b"),
            ("path=/a+b", "/a%20b"),
            ("path=/a%23part", "/a#part"),
            ("path=//evil.org/x", "//evil.org/x"),
            ("path=https://evil.org/", "/"),
            ("path=evil", "/"),
            ("path=/%5Cevil", "/%5Cevil"),
            ("path=/a%0d%0aset-cookie:x", "/a%0D%0Aset-cookie:x"),
            ("path=/%C3%A4%00", "/%C3%A4%00"),
            ("path=/%zz%", "/%zz%"),
            ("path=/.jetway/enter", "/"),
            ("xpath=/a", "/"),
        ] {
            assert_eq!(WantedPath::in_query(Some(query)).as_str(), expect, "{query}");
        }
        assert_eq!(WantedPath::in_query(None).as_str(), "/");
    }

    #[test]
    fn a_path_in_a_query_is_bounded() {
        let of = |text: &str| WantedPath::of(&text.parse().unwrap());
        assert_eq!(of("/a/b?c=d&e").encoded(), "/a/b%3Fc%3Dd%26e");
        assert_eq!(of("http://h/a").as_str(), "/a");
        assert_eq!(of(&format!("/a?{}", "&".repeat(700))).as_str(), "/a", "three bytes each");
        assert_eq!(of(&format!("/{}", "a".repeat(2100))).as_str(), "/");
        let encoded = WantedPath::in_query(Some("path=/a%3Fb%2526c")).encoded();
        assert_eq!(
            WantedPath::in_query(Some(&format!("path={encoded}"))).as_str(),
            "/a?b%26c",
            "there and back"
        );
    }
}
