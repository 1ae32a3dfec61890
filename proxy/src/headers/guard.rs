//! What answers of the host form say beside the application's own words: which pages may have them
//! in a frame or read them, and that no cache of several people keeps them. Pure.
//!
//! A cookie guards them, and browsers send cookies along by themselves. A browser also keeps answers
//! by the site of the page, and sessions of one cluster may be one site: so it must know by the
//! answer alone who may have it.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue,
    VARY,
};

use super::lines::write_line;
use super::origin::Readers;
use super::response::allow_every_origin;

pub const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// RFC 9213, and the older name that other caches before a server know.
const CDN_CACHE: HeaderName = HeaderName::from_static("cdn-cache-control");
const SURROGATE: HeaderName = HeaderName::from_static("surrogate-control");
/// A script with the first listener in it is none for a page.
const BY_WORKER: HeaderValue = HeaderValue::from_static("service-worker");
const PRIVATE: HeaderValue = HeaderValue::from_static("private");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
const CROSS_ORIGIN: HeaderValue = HeaderValue::from_static("cross-origin");

/// The lines that stay the same for one grant.
#[derive(Debug)]
pub struct Guard {
    ancestors: HeaderValue,
    /// For [`Readers::Own`], as they are sent.
    written: Box<[u8]>,
}

/// The pages that may have a session's pages in a frame (CSP 3, `frame-ancestors`). An origin that
/// is none is left out: `null` is every page that wants to be it.
pub fn ancestors(allowed: &[String]) -> HeaderValue {
    let is_one = |origin: &&String| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:/".contains(&byte);
        origin.contains("://") && origin.bytes().all(fits)
    };
    let listed = allowed.iter().filter(is_one).map(|origin| format!(" {origin}"));
    let text = format!("frame-ancestors 'self'{}", listed.collect::<String>());
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("frame-ancestors 'none'"))
}

impl Guard {
    pub fn new(allowed: &[String]) -> Self {
        let mut guard = Self { ancestors: ancestors(allowed), written: Box::default() };
        let (mut lines, mut text) = (HeaderMap::new(), Vec::new());
        guard.tell(&mut lines, &Readers::Own);
        for (name, value) in &lines {
            write_line(&mut text, name.as_str(), value.as_bytes());
        }
        guard.written = text.into();
        guard
    }

    pub fn written(&self) -> &[u8] {
        &self.written
    }

    /// Behind the application's own lines, without those that are the proxy's to say.
    pub fn tell(&self, headers: &mut HeaderMap, readers: &Readers) {
        headers.insert(CDN_CACHE, NO_STORE);
        headers.insert(SURROGATE, NO_STORE);
        if *readers == Readers::Part {
            // From a browser's cache it would come to pages that are not listed.
            headers.insert(CACHE_CONTROL, NO_STORE);
        } else {
            headers.append(CACHE_CONTROL, PRIVATE);
        }
        headers.append(VARY, BY_WORKER);
        if *readers == Readers::Bearer {
            return;
        }
        headers.append(CONTENT_SECURITY_POLICY, self.ancestors.clone());
        match readers {
            Readers::Own | Readers::Bearer => {
                headers.insert(RESOURCE_POLICY, SAME_ORIGIN);
            }
            Readers::Part => {
                headers.insert(RESOURCE_POLICY, CROSS_ORIGIN);
            }
            // A page with COEP has no frame but one that says so itself.
            Readers::Frame => {
                headers.entry(RESOURCE_POLICY).or_insert(SAME_ORIGIN);
            }
            Readers::Script(origin) => {
                headers.insert(RESOURCE_POLICY, SAME_ORIGIN);
                allow(headers, origin);
            }
        }
    }
}

/// A listed page's script may read the answer, in the name of its person.
pub fn allow(headers: &mut HeaderMap, origin: &HeaderValue) {
    for name in [ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_HEADERS] {
        headers.remove(name);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.append(VARY, HeaderValue::from_static("origin"));
}

/// What is open in the path form is so in the host form for clients that have a token: nothing of
/// it comes by itself.
pub fn open(headers: &mut HeaderMap, readers: &Readers, has_cors: bool) {
    if *readers == Readers::Bearer && !has_cors {
        allow_every_origin(headers);
    }
}

/// `Clear-Site-Data` without its word for cookies: it would take the proxy's, and with them those
/// of other sessions of the site. `None`: nothing is left.
pub fn keeping_cookies(value: &HeaderValue) -> Option<HeaderValue> {
    /// All that `*` means, but for cookies.
    const OTHERS: &str = "\"cache\", \"clientHints\", \"executionContexts\", \"prefetchCache\", \"prerenderCache\", \"storage\"";
    let words = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let kept = words.filter_map(|word| match word {
        b"\"*\"" => Some(OTHERS.as_bytes()),
        word if is_for_cookies(word) => None,
        word => Some(word),
    });
    let kept = kept.collect::<Vec<_>>().join(&b", "[..]);
    HeaderValue::from_bytes(&kept).ok().filter(|kept| !kept.is_empty())
}

/// However it is written: what no browser takes for the word does no harm by being left out.
fn is_for_cookies(word: &[u8]) -> bool {
    let word: Vec<u8> =
        word.iter().filter(|byte| byte.is_ascii_alphanumeric() || **byte == b'*').copied().collect();
    word.eq_ignore_ascii_case(b"cookies") || word.contains(&b'*')
}

#[cfg(test)]
mod tests {
    use super::super::map;
    use super::*;

    fn told(readers: &Readers, lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = map(lines);
        Guard::new(&["https://app.example.org".to_owned()]).tell(&mut headers, readers);
        headers
    }

    #[test]
    fn frames_are_for_listed_pages() {
        for (allowed, expect) in [
            (&[][..], "frame-ancestors 'self'"),
            (&["https://a.org", "http://b:1"], "frame-ancestors 'self' https://a.org http://b:1"),
            (&["null", "*", "https://a.org; script-src x", "https://a, b"], "frame-ancestors 'self'"),
        ] {
            let allowed: Vec<String> = allowed.iter().map(|&origin| origin.to_owned()).collect();
            assert_eq!(ancestors(&allowed), expect);
        }
    }

    #[test]
    fn each_reader_is_told_what_is_his() {
        let origin = HeaderValue::from_static("https://app.example.org");
        for (readers, policy, framed) in [
            (Readers::Own, Some("same-origin"), true),
            (Readers::Script(origin.clone()), Some("same-origin"), true),
            (Readers::Part, Some("cross-origin"), true),
            (Readers::Frame, Some("same-origin"), true),
            (Readers::Bearer, None, false),
        ] {
            let headers = told(&readers, &[("cache-control", "public, max-age=60"), ("vary", "accept")]);
            let found = headers.get(RESOURCE_POLICY).map(|value| value.to_str().unwrap());
            assert_eq!(found, policy, "{readers:?}");
            let ancestors = "frame-ancestors 'self' https://app.example.org";
            let is_framed = headers.get(CONTENT_SECURITY_POLICY).is_some_and(|value| value == ancestors);
            assert_eq!(is_framed, framed, "{readers:?}");
            assert_eq!((&headers[CDN_CACHE], &headers[SURROGATE]), (&NO_STORE, &NO_STORE));
            let cache: Vec<_> = headers.get_all(CACHE_CONTROL).iter().collect();
            match readers {
                Readers::Part => assert_eq!(cache, ["no-store"]),
                _ => assert_eq!(cache, ["public, max-age=60", "private"], "{readers:?}"),
            }
            let reads = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN) == Some(&origin);
            assert_eq!(reads, matches!(readers, Readers::Script(_)), "{readers:?}");
            let vary: Vec<_> = headers.get_all(VARY).iter().collect();
            assert_eq!(vary.contains(&&HeaderValue::from_static("origin")), reads, "{vary:?}");
        }
        let own = told(&Readers::Frame, &[("cross-origin-resource-policy", "cross-origin")]);
        assert_eq!(own[RESOURCE_POLICY], "cross-origin");
    }

    #[test]
    fn cookies_are_not_cleared() {
        for (value, left) in [
            ("\"cookies\"", None),
            ("\"cache\", \"cookies\", \"storage\"", Some("\"cache\", \"storage\"")),
            ("\"storage\"", Some("\"storage\"")),
            ("cookies", None),
            ("\"Cookies\" ,\"cache\"", Some("\"cache\"")),
        ] {
            let found = keeping_cookies(&HeaderValue::from_static(value));
            assert_eq!(found.as_ref().map(|left| left.to_str().unwrap()), left, "{value}");
        }
        let all = keeping_cookies(&HeaderValue::from_static("\"*\"")).unwrap();
        let all = all.to_str().unwrap();
        assert!(all.contains("\"storage\"") && !all.contains("cookies") && !all.contains('*'), "{all}");
    }
}
