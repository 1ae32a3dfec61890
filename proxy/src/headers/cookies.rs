//! Cookies of sessions that share an origin: each is kept below its own session's path, so that no
//! session's cookies reach another's process, and none is set for a whole domain.
//!
//! A `Set-Cookie` is read as browsers read it (RFC 6265 §5.2): attributes between semicolons, the
//! last of a kind counts.

use http::header::HeaderValue;

use super::origin::Shared;

/// Bytes of an attribute's value, at most: browsers pass over a longer one (RFC 6265bis §5.6), so
/// that a path no longer confines.
const VALUE_BYTES_MAX: usize = 1024;

/// The same cookie, confined. `shared` is `None` where the session has an origin of its own.
pub fn confined(cookie: &HeaderValue, shared: Option<&Shared<'_>>) -> Option<HeaderValue> {
    let mut parts = cookie.as_bytes().split(|b| *b == b';');
    let mut kept = parts.next().unwrap_or_default().to_vec();
    let mut path = None;
    for part in parts {
        let (name, value) = attribute(part);
        if name.eq_ignore_ascii_case(b"domain") {
            continue;
        }
        if shared.is_some() && name.eq_ignore_ascii_case(b"path") {
            path = Some(value);
            continue;
        }
        kept.push(b';');
        kept.extend_from_slice(part);
    }
    if let Some(shared) = shared {
        kept.extend_from_slice(b"; Path=");
        let path = Some(below(shared, path)).filter(|path| path.len() <= VALUE_BYTES_MAX);
        kept.extend_from_slice(path.as_deref().unwrap_or(shared.prefix.as_bytes()));
    }
    HeaderValue::from_bytes(&kept).ok()
}

fn attribute(part: &[u8]) -> (&[u8], &[u8]) {
    match part.iter().position(|b| *b == b'=') {
        Some(at) => (part[..at].trim_ascii(), part[at + 1..].trim_ascii()),
        None => (part.trim_ascii(), &[]),
    }
}

/// Where the application meant the cookie to go, seen from outside.
fn below(shared: &Shared<'_>, path: Option<&[u8]>) -> Vec<u8> {
    let prefix = shared.prefix.as_bytes();
    let inside =
        |path: &[u8]| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
    match path.filter(|path| path.starts_with(b"/")) {
        Some(path) if inside(path) => path.to_vec(),
        // The application sees whole paths, so this one is not below its own.
        Some(_) if shared.path_is_kept => prefix.to_vec(),
        Some(b"/") => prefix.to_vec(),
        Some(path) => [prefix, path].concat(),
        // As browsers do: the directory of the request's path (§5.1.4).
        None => {
            let asked = shared.asked.as_bytes();
            let directory = &asked[..asked.iter().rposition(|b| *b == b'/').unwrap_or(0)];
            // A semicolon in it would begin an attribute of the sender's choice.
            if inside(directory) && !directory.contains(&b';') { directory.to_vec() } else { prefix.to_vec() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: Shared<'_> = Shared { prefix: "/tok", asked: "/tok/a/b", path_is_kept: false };

    fn check(shared: Option<&Shared<'_>>, cookie: &str, expect: &str) {
        let found = confined(&HeaderValue::from_str(cookie).unwrap(), shared).unwrap();
        assert_eq!(found, expect, "{cookie:?}");
    }

    #[test]
    fn a_path_is_below_the_token() {
        for (cookie, expect) in [
            ("a=b; Path=/", "a=b; Path=/tok"),
            ("a=b; path=/x; HttpOnly", "a=b; HttpOnly; Path=/tok/x"),
            ("a=b; Path=/x/; Path=/y", "a=b; Path=/tok/y"),
            ("a=b", "a=b; Path=/tok/a"),
            ("a=b; Path", "a=b; Path=/tok/a"),
            ("a=b; Path=x", "a=b; Path=/tok/a"),
            ("a=b;PATH = /x ;Secure", "a=b;Secure; Path=/tok/x"),
            ("a=b; Path=/tok/x", "a=b; Path=/tok/x"),
            ("a=b; Path=/tok", "a=b; Path=/tok"),
            ("a=b; Path=/tokens", "a=b; Path=/tok/tokens"),
            ("a=b; Path=/other/x", "a=b; Path=/tok/other/x"),
            ("a=b; Path=//x", "a=b; Path=/tok//x"),
            ("a=\"x; Path=/\"; SameSite=Lax", "a=\"x; SameSite=Lax; Path=/tok/\""),
            ("", "; Path=/tok/a"),
        ] {
            check(Some(&SHARED), cookie, expect);
        }
    }

    #[test]
    fn a_path_that_browsers_pass_over_is_not_given() {
        for (bytes, kept) in [(VALUE_BYTES_MAX - "/tok/".len(), true), (VALUE_BYTES_MAX, false)] {
            let path = format!("/{}", "x".repeat(bytes));
            let expect = if kept { format!("a=b; Path=/tok{path}") } else { "a=b; Path=/tok".into() };
            check(Some(&SHARED), &format!("a=b; Path={path}"), &expect);
        }
    }

    #[test]
    fn without_a_path_it_is_the_directory_of_what_was_asked_for() {
        for (asked, expect) in [
            ("/tok", "/tok"),
            ("/tok/", "/tok"),
            ("/tok/a", "/tok"),
            ("/tok/a/", "/tok/a"),
            ("/tok//", "/tok/"),
            ("/tok/a;Domain=example.com/b", "/tok"),
        ] {
            check(Some(&Shared { asked, ..SHARED }), "a=b", &format!("a=b; Path={expect}"));
        }
        let port = Shared { prefix: "/tok/_port/debug", asked: "/tok/_port/debug", path_is_kept: false };
        check(Some(&port), "a=b", "a=b; Path=/tok/_port/debug");
        check(Some(&port), "a=b; Path=/x", "a=b; Path=/tok/_port/debug/x");
    }

    #[test]
    fn with_a_path_that_is_kept_nothing_is_put_before_it() {
        let kept = Shared { prefix: "/s.tok", asked: "/s.tok/a", path_is_kept: true };
        for (cookie, expect) in [
            ("a=b; Path=/s.tok/x", "a=b; Path=/s.tok/x"),
            ("a=b; Path=/", "a=b; Path=/s.tok"),
            ("a=b; Path=/s.tokens", "a=b; Path=/s.tok"),
            ("a=b", "a=b; Path=/s.tok"),
        ] {
            check(Some(&kept), cookie, expect);
        }
    }

    #[test]
    fn no_cookie_is_a_whole_domains() {
        check(Some(&SHARED), "a=b; Domain=example.com; Secure", "a=b; Secure; Path=/tok/a");
        check(None, "a=b; Domain=example.com; Path=/; DOMAIN", "a=b; Path=/");
        check(None, "a=b; Path=/x; Max-Age=1", "a=b; Path=/x; Max-Age=1");
    }
}
