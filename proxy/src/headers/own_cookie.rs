//! The proxy's own cookies on a session's host: no application sees one, and none sets one. Pure.
//!
//! A `Cookie` is read as browsers write it (RFC 6265 §4.2.1): pairs between semicolons. What a
//! server may read in another way goes with the pair that it stands in.

use std::ops::Range;

use http::header::{COOKIE as COOKIE_FIELD, HeaderMap, HeaderValue};
use jetway_protocol::host::{COOKIE, ENTER_SECONDS};

/// Holds an entering token while its person is asked whether to change places with another user.
pub const PENDING: &str = "__Host-jetway-enter";

const ATTRIBUTES: &str = "; Secure; HttpOnly; Path=/; SameSite=None";
const PARTITIONED: &str = "; Partitioned";

/// The proxy's cookie in one `Cookie` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    None,
    /// Its value, in the line.
    One(Range<usize>),
    /// Several, or one that only the proxy's other names have.
    Odd,
}

/// A name that is the proxy's, in any case: some servers do not tell cases apart.
fn is_ours(name: &[u8]) -> bool {
    let Some((start, rest)) = name.split_at_checked(COOKIE.len()) else { return false };
    start.eq_ignore_ascii_case(COOKIE.as_bytes()) && (rest.is_empty() || rest[0] == b'-')
}

/// A pair, without the white space around its parts. Without `=`, all of it is the name.
fn pair(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == b'=') {
        Some(at) => (text[..at].trim_ascii(), text[at + 1..].trim_ascii()),
        None => (text.trim_ascii(), &[]),
    }
}

/// A browser sends and takes a cookie without a name as if its value had the name in it.
fn is_our_pair(text: &[u8]) -> bool {
    match pair(text) {
        ([], value) => is_ours(pair(value).0),
        (name, _) => is_ours(name),
    }
}

fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';')
}

pub fn own(line: &[u8]) -> Own {
    let (mut found, mut start) = (Own::None, 0);
    for text in pairs(line) {
        if is_our_pair(text) {
            let value = pair(text).1;
            found = match found {
                Own::None if pair(text).0 == COOKIE.as_bytes() => {
                    let end = start + text.trim_ascii_end().len();
                    Own::One(end - value.len()..end)
                }
                _ => Own::Odd,
            };
        }
        start += text.len() + 1;
    }
    found
}

/// The values of the cookie of this name, whatever line they stand in.
pub fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(COOKIE_FIELD).iter();
    let all = lines.flat_map(|line| pairs(line.as_bytes())).map(pair);
    let named = all.filter(move |(given, _)| *given == name.as_bytes());
    named.filter_map(|(_, value)| std::str::from_utf8(value).ok())
}

fn theirs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    pairs(line).filter(|text| !is_our_pair(text)).map(<[u8]>::trim_ascii).filter(|text| !text.is_empty())
}

/// A line without the proxy's pairs. `None`: nothing is left.
fn without(line: &[u8]) -> Option<Vec<u8>> {
    let kept = theirs(line).collect::<Vec<_>>().join(&b"; "[..]);
    (!kept.is_empty()).then_some(kept)
}

/// The same, written behind others.
pub fn write_without(text: &mut Vec<u8>, name: &str, line: &[u8]) {
    let mut separator = ": ";
    for pair in theirs(line) {
        if separator == ": " {
            text.extend_from_slice(name.as_bytes());
        }
        text.extend_from_slice(separator.as_bytes());
        text.extend_from_slice(pair);
        separator = "; ";
    }
    if separator == "; " {
        text.extend_from_slice(b"\r\n");
    }
}

/// Takes them off all lines.
pub fn take_off(headers: &mut HeaderMap) {
    let (mut has_ours, mut has_theirs) = (false, false);
    for line in headers.get_all(COOKIE_FIELD) {
        let line = line.as_bytes();
        let own = own(line);
        has_ours |= own != Own::None;
        // Nearly always it is all of the line, or none of it.
        has_theirs |= !matches!(own, Own::One(value) if COOKIE.len() + 1 + value.len() == line.len());
    }
    if !has_ours {
        return;
    }
    let mut kept = Vec::new();
    if has_theirs {
        let lines = headers.get_all(COOKIE_FIELD).iter().filter_map(|line| without(line.as_bytes()));
        kept.extend(lines.filter_map(|line| HeaderValue::from_bytes(&line).ok()));
    }
    headers.remove(COOKIE_FIELD);
    for line in kept {
        headers.append(COOKIE_FIELD, line);
    }
}

/// Whether a `Set-Cookie` is for one of ours, as any browser may take it.
pub fn is_set_by(set_cookie: &[u8]) -> bool {
    pairs(set_cookie).next().is_some_and(is_our_pair)
}

/// Lets its bearer in. First of all, one without `Partitioned` goes: a browser has kept it from
/// before it knew the word, or a script has put it there. One that still does not know the word
/// takes both lines for the same cookie, and the last one counts.
pub fn entered(token: &str) -> [String; 2] {
    [deleted_one(COOKIE, ""), format!("{COOKIE}={token}{ATTRIBUTES}{PARTITIONED}")]
}

/// Kept while its person is asked.
pub fn pending(token: &str) -> String {
    format!("{PENDING}={token}; Max-Age={ENTER_SECONDS}{ATTRIBUTES}{PARTITIONED}")
}

pub fn deleted(name: &str) -> [String; 2] {
    [deleted_one(name, ""), deleted_one(name, PARTITIONED)]
}

fn deleted_one(name: &str, partitioned: &str) -> String {
    format!("{name}=; Max-Age=0{ATTRIBUTES}{partitioned}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_cookie_is_found_in_a_line() {
        for (line, value) in [
            ("__Host-jetway=abc", Some("abc")),
            ("a=b; __Host-jetway=abc", Some("abc")),
            ("a=b;__Host-jetway = abc ;c=d", Some("abc")),
            ("__Host-jetway=", Some("")),
            ("a=\"x; __Host-jetway=abc; y\"", Some("abc")),
            ("a=b", None),
            ("", None),
            ("__Host-jetways=abc", None),
            ("x__Host-jetway=abc", None),
        ] {
            let found = match own(line.as_bytes()) {
                Own::One(range) => Some(&line[range]),
                Own::None => None,
                Own::Odd => panic!("{line}"),
            };
            assert_eq!(found, value, "{line}");
        }
        for odd in [
            "__Host-jetway=a; __Host-jetway=b",
            "__host-jetway=a",
            "__Host-jetway-enter=a",
            "__Host-jetway=a; __Host-jetway-enter=b",
            "=__Host-jetway=a",
        ] {
            assert_eq!(own(odd.as_bytes()), Own::Odd, "{odd}");
        }
    }

    #[test]
    fn no_pair_of_ours_is_left() {
        for (line, left) in [
            ("__Host-jetway=abc", None),
            ("__Host-jetway=abc; a=b", Some("a=b")),
            ("a=b; __Host-jetway=abc;c=d;", Some("a=b; c=d")),
            ("a=b; __HOST-JETWAY=abc; __Host-jetway-enter=x; =__Host-jetway=y; __Host-jetway", Some("a=b")),
            ("a=\"x; __Host-jetway=abc; y\"", Some("a=\"x; y\"")),
            ("__Host-jetways=abc", Some("__Host-jetways=abc")),
        ] {
            let found = without(line.as_bytes()).map(|left| String::from_utf8(left).unwrap());
            assert_eq!(found.as_deref(), left, "{line}");
            let mut text = Vec::new();
            write_without(&mut text, "Cookie", line.as_bytes());
            let expect = left.map(|left| format!("Cookie: {left}\r\n")).unwrap_or_default();
            assert_eq!(String::from_utf8(text).unwrap(), expect, "{line}");
        }
        let mut headers =
            super::super::map(&[("cookie", "__Host-jetway=a"), ("cookie", "b=c; __Host-jetway=d")]);
        let found: Vec<_> = values(&headers, COOKIE).collect();
        assert_eq!(found, ["a", "d"]);
        take_off(&mut headers);
        let left: Vec<_> = headers.get_all("cookie").iter().collect();
        assert_eq!(left, ["b=c"]);
    }

    #[test]
    fn an_application_sets_none_of_ours() {
        for ours in [
            "__Host-jetway=x; Path=/",
            " __host-JETWAY =x",
            "=__Host-jetway=x",
            " = __Host-jetway=x; Secure",
            "__Host-jetway",
            "__Host-jetway-enter=x",
            "__Host-jetway=; Max-Age=0",
        ] {
            assert!(is_set_by(ours.as_bytes()), "{ours}");
        }
        for theirs in ["a=b", "a=__Host-jetway=x", "session=x; __Host-jetway=y", "__Host-jet=x", "=x", ""] {
            assert!(!is_set_by(theirs.as_bytes()), "{theirs}");
        }
    }

    #[test]
    fn our_cookies_are_for_this_host_alone() {
        let [gone, set] = entered("tok");
        assert_eq!(set, "__Host-jetway=tok; Secure; HttpOnly; Path=/; SameSite=None; Partitioned");
        assert_eq!(gone, "__Host-jetway=; Max-Age=0; Secure; HttpOnly; Path=/; SameSite=None");
        assert!(pending("tok").contains("; Max-Age=300; Secure; HttpOnly; Path=/"));
        assert!(deleted(PENDING).iter().all(|line| line.starts_with("__Host-jetway-enter=; Max-Age=0")));
    }
}
