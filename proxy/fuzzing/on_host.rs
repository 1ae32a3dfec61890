//! A request of the host form: our cookies are found and leave no trace, the page behind a request
//! is judged by what no page can write, and the way there and back keeps its path.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};

use super::cookies::is_the_proxys;
use super::headers::values;
use crate::headers::own_cookie::{self, Own};
use crate::request::ambient::{Ambient, Page};
use crate::route::session_host::OwnOrigin;
use crate::route::wanted::WantedPath;

const OWN: OwnOrigin<'_> = OwnOrigin { scheme: "https", host: "sub.example.com" };
const LISTED: &str = "https://app.example.org";
const ENCODED_BYTES_MAX: usize = 2048;
const LINES_MAX: usize = 100;

/// `bytes`: lines with a method, a query, and headers.
pub fn on_host(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let (method, query) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    wanted(query);
    let headers: HeaderMap = lines.filter_map(header).take(LINES_MAX).collect();
    for line in values(&headers, "cookie") {
        a_cookie_line(line);
    }
    no_cookie_of_ours_is_left(&headers);
    for line in values(&headers, "set-cookie") {
        assert_eq!(own_cookie::is_set_by(line), is_the_proxys(line), "{}", line.escape_ascii());
    }
    let Ok(method) = Method::from_bytes(method) else { return };
    for is_websocket in [false, true] {
        judged(&method, is_websocket, &headers);
    }
}

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().skip(1).position(|byte| *byte == b':')? + 1;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
}

fn a_cookie_line(line: &[u8]) {
    let ours: Vec<&[u8]> = line.split(|byte| *byte == b';').filter(|pair| is_the_proxys(pair)).collect();
    match own_cookie::own(line) {
        Own::None => assert!(ours.is_empty(), "{}", line.escape_ascii()),
        Own::Odd => assert!(!ours.is_empty(), "{}", line.escape_ascii()),
        Own::One(range) => {
            let [pair] = ours[..] else { panic!("{}", line.escape_ascii()) };
            let value = pair.splitn(2, |byte| *byte == b'=').nth(1).unwrap_or_default().trim_ascii();
            assert_eq!(&line[range], value, "{}", line.escape_ascii());
        }
    }
    let mut text = Vec::new();
    own_cookie::write_without(&mut text, "cookie", line);
    let mut headers = HeaderMap::new();
    headers.append("cookie", HeaderValue::from_bytes(line).expect("it was one"));
    own_cookie::take_off(&mut headers);
    if !ours.is_empty() {
        let left = values(&headers, "cookie").first().map(|left| [b"cookie: ", *left, b"\r\n"].concat());
        assert_eq!(text, left.unwrap_or_default(), "both lanes");
    }
}

fn no_cookie_of_ours_is_left(before: &HeaderMap) {
    let mut after = before.clone();
    own_cookie::take_off(&mut after);
    let pairs = |headers: &HeaderMap| -> Vec<Vec<u8>> {
        let lines = values(headers, "cookie");
        let all = lines.iter().flat_map(|line| line.split(|byte| *byte == b';'));
        all.map(|pair| pair.trim_ascii().to_vec()).filter(|pair| !pair.is_empty()).collect()
    };
    let (given, left) = (pairs(before), pairs(&after));
    let theirs: Vec<Vec<u8>> = given.into_iter().filter(|pair| !is_the_proxys(pair)).collect();
    assert_eq!(left, theirs, "{before:?}");
    for name in before.keys().filter(|name| *name != "cookie") {
        assert_eq!(values(&after, name.as_str()), values(before, name.as_str()), "{name}");
    }
}

/// As the rules are told, in their order.
fn judged(method: &Method, is_websocket: bool, headers: &HeaderMap) {
    let page = Ambient::of(method, is_websocket, headers).page(Some(&OWN));
    let one = |name: &str| match values(headers, name)[..] {
        [] => Some(None),
        [one] => Some(Some(String::from_utf8_lossy(one).into_owned())),
        _ => None,
    };
    let is_read = matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE") && !is_websocket;
    let allowed = [LISTED.to_owned(), "null".to_owned()];
    let may = match &page {
        Page::Own => true,
        Page::Refused => false,
        Page::Other(other) => {
            assert!(!other.is_listed(&[]), "nothing is listed");
            other.is_listed(&allowed)
        }
    };
    let (site, origin) = (one("sec-fetch-site"), one("origin"));
    let by_browser = matches!(site, Some(Some(ref site)) if site == "same-origin" || site == "none");
    if by_browser {
        assert!(may && page == Page::Own, "{headers:?}");
        return;
    }
    let is_navigation = one("sec-fetch-mode") == Some(Some("navigate".into())) && is_read;
    let is_elsewhere = !values(headers, "sec-fetch-site").is_empty();
    if is_elsewhere && is_navigation {
        let is_document = matches!(one("sec-fetch-dest"), Some(None))
            || one("sec-fetch-dest") == Some(Some("document".into()));
        assert!(site.is_none() || (page == Page::Own) == is_document, "{headers:?}");
        return;
    }
    // A page that says another origin than its own, and none that is listed, may nothing.
    if let Some(Some(origin)) = &origin {
        let is_own = !is_elsewhere
            && ["https://sub.example.com", "https://sub.example.com:443"]
                .contains(&&*origin.to_ascii_lowercase());
        let is_listed = origin.eq_ignore_ascii_case(LISTED);
        assert_eq!(may && site.is_some(), (is_own || is_listed) && site.is_some(), "{headers:?}");
    }
    if is_elsewhere && !is_read && origin == Some(None) {
        assert!(!may, "{headers:?}");
    }
}

fn wanted(query: &[u8]) {
    let Ok(query) = std::str::from_utf8(query) else { return };
    let path = WantedPath::in_query(Some(query));
    let text = path.as_str();
    assert!(text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
    assert!(!text.starts_with("/.jetway/") && path.encoded().len() <= ENCODED_BYTES_MAX, "{text}");
    let again = WantedPath::in_query(Some(&format!("path={}", path.encoded())));
    assert_eq!(again, path, "there and back");
    let url: Uri = OWN.url(text).split('#').next().unwrap_or_default().parse().expect("a URL");
    assert_eq!(url.authority().map(|host| host.as_str()), Some("sub.example.com"), "{text}");
}
