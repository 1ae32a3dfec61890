//! A plain request's head: where it goes, and the head for its backend. Pure.

use std::ops::Range;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::on_host::{self, Place};
use crate::headers::rules::{self, InRequest};
use crate::headers::{framing, own_cookie, plain};
use crate::pages::page::STAGE_TYPE;
use crate::route::PathParts;

/// More lines than a browser sends; a longer head is served by hyper.
const LINES_MAX: usize = 48;

const HTML: &[u8] = b"text/html";
const WELL_KNOWN: &str = ".well-known";
static PLAIN: [Method; 7] =
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// A head that was written down for its backend, without our lines behind it.
#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    /// In the bytes that were read, as all that follows.
    pub body: Range<usize>,
    path: Range<usize>,
    host: Range<usize>,
    /// A forwarder's lines on others.
    pub said: HeaderMap,
    /// A person may look at the answer.
    pub takes_html: bool,
    pub form: Form,
}

/// The form of a request's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Its path carries a token. `is_own`: under the cluster's own host, and no session's.
    Path { is_own: bool },
    /// Its host says whose it is, and a cookie who comes: its value, in the bytes.
    Host { cookie: Range<usize> },
}

impl RequestHead {
    pub fn path<'a>(&self, bytes: &'a [u8]) -> &'a str {
        // It has passed `is_plain_path`, so it is ASCII.
        std::str::from_utf8(&bytes[self.path.clone()]).unwrap_or("/")
    }

    /// Whether it may be asked twice (RFC 9110 §9.2.2), and there is nothing that would have to be
    /// sent twice.
    pub fn is_repeatable(&self) -> bool {
        self.method.is_idempotent() && self.body.is_empty()
    }

    pub fn host<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.host.clone()]
    }
}

/// Writes the backend's request line and the client's own lines to `text`. `None`: it is not plain,
/// or not all of it is here, body and all.
///
/// `trusted`: it comes from a forwarder. `place_of`: where a Host leads; it is asked for the first
/// one, and a second one is not plain.
pub fn read(
    bytes: &[u8],
    trusted: bool,
    place_of: impl FnOnce(&[u8]) -> Place,
    text: &mut Vec<u8>,
) -> Option<RequestHead> {
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let mut request = httparse::Request::new(&mut lines);
    let httparse::Status::Complete(length) = request.parse(bytes).ok()? else { return None };
    if request.version != Some(1) {
        return None;
    }
    let method = request.method?.parse().ok().filter(|method| PLAIN.contains(method))?;
    let target = request.path?;
    let (path, query) = match target.split_once('?') {
        Some((path, _)) => (path, &target[path.len()..]),
        None => (target, ""),
    };
    let first = request.headers.iter().find(|line| line.name.eq_ignore_ascii_case("host"))?;
    let form = match place_of(first.value) {
        // A path may wait for the installation, and nothing else.
        Place::Unknown => on_host::form(bytes, &method, path, request.headers, true)
            .filter(|form| matches!(form, Form::Path { .. }))?,
        Place::Own => Form::Path { is_own: true },
        Place::Session { takes_paths } => on_host::form(bytes, &method, path, request.headers, takes_paths)?,
    };
    let is_host_form = matches!(form, Form::Host { .. });
    let (forward, first) = match is_host_form {
        true => (path, path.strip_prefix('/')?.split('/').next().unwrap_or_default()),
        false => PathParts::of(path).map(|place| (place.forward(), place.token))?,
    };
    // Paths below `.well-known` (RFC 8615) are the proxy's.
    if !is_plain(target) || first == WELL_KNOWN {
        return None;
    }
    for part in [method.as_str(), " ", forward, query, " HTTP/1.1\r\n"] {
        text.extend_from_slice(part.as_bytes());
    }
    let (mut host, mut body, mut said) = (None, None, HeaderMap::new());
    let (mut has_cookie, mut takes_html) = (false, false);
    for httparse::Header { name, value } in request.headers.iter() {
        match rules::in_request(name.as_bytes()) {
            InRequest::Passes if name.eq_ignore_ascii_case("accept") => {
                if *value == STAGE_TYPE.as_bytes() {
                    return None;
                }
                takes_html |= value.windows(HTML.len()).any(|part| part == HTML);
            }
            InRequest::Passes => {}
            // The default.
            InRequest::Connection if value.eq_ignore_ascii_case(b"keep-alive") => continue,
            InRequest::Cookie if has_cookie => return None,
            InRequest::Cookie => {
                has_cookie = true;
                if is_host_form {
                    own_cookie::write_without(text, name, value);
                    continue;
                }
            }
            InRequest::Host if host.is_some() => return None,
            InRequest::Host => host = Some(range(bytes, value)),
            InRequest::Length if body.is_some() => return None,
            InRequest::Length => body = Some(usize::try_from(framing::digits(value)?).ok()?),
            InRequest::Forwarders if trusted => {
                let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                said.append(name, HeaderValue::from_bytes(value).ok()?);
                continue;
            }
            InRequest::Forwarders | InRequest::Removed | InRequest::Noticed => return None,
            InRequest::Connection | InRequest::Te => return None,
        }
        plain::write_line(text, name, value);
    }
    let body = length..length.checked_add(body.unwrap_or(0))?;
    bytes.get(body.clone())?;
    let path = range(bytes, path.as_bytes());
    Some(RequestHead { method, body, path, host: host?, said, takes_html, form })
}

/// The path of a head that was read, without its query.
pub fn path(bytes: &[u8]) -> String {
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let mut request = httparse::Request::new(&mut lines);
    let _was_read_before = request.parse(bytes);
    let target = request.path.unwrap_or("/");
    target.split_once('?').map_or(target, |(path, _)| path).to_owned()
}

/// All lines of a head that was read.
pub fn headers(bytes: &[u8]) -> HeaderMap {
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let mut request = httparse::Request::new(&mut lines);
    let _was_read_before = request.parse(bytes);
    let mut headers = HeaderMap::new();
    for line in request.headers.iter() {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(line.name.as_bytes()), HeaderValue::from_bytes(line.value))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// Where a part stands in the whole that it was taken from.
pub(super) fn range(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    start..start + part.len()
}

/// Of letters that no server reads in two ways (RFC 3986 §2.2, §2.3), so that nothing is cut off or
/// refused behind us.
fn is_plain(target: &str) -> bool {
    target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(request: &str) -> Option<(RequestHead, String)> {
        let mut text = Vec::new();
        let head = read(request.as_bytes(), false, |_| Place::Own, &mut text)?;
        Some((head, String::from_utf8(text).unwrap()))
    }

    #[test]
    fn a_plain_request_passes_as_it_came() {
        let request = "GET /tok/a/b?c=%20d HTTP/1.1\r\nHost: H:1\r\nConnection: keep-alive\r\nCookie: a=b; c=d\r\n\
            X-Requested-With: x\r\n\r\nGET /next";
        let (head, text) = sent(request).unwrap();
        assert_eq!(&request[head.body.end..], "GET /next");
        assert!(head.is_repeatable());
        assert_eq!(head.path(request.as_bytes()), "/tok/a/b");
        assert_eq!(head.host(request.as_bytes()), b"H:1");
        let expect = "GET /a/b?c=%20d HTTP/1.1\r\nHost: H:1\r\nCookie: a=b; c=d\r\nX-Requested-With: x\r\n";
        assert_eq!(text, expect);
    }

    #[test]
    fn a_body_that_is_here_is_the_requests() {
        let request = "POST /tok/ HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /next";
        let (head, text) = sent(request).unwrap();
        assert_eq!((&request[head.body.clone()], head.is_repeatable()), ("abc", false));
        assert_eq!(text, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n");
        let (head, _) = sent("PUT /tok/ HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert!(head.is_repeatable());
    }

    #[test]
    fn paths_lead_where_routes_say() {
        for (path, forward) in [
            ("/tok", Some("/")),
            ("/tok?a", Some("/?a")),
            ("/tok/_port/debug/x?y", Some("/x?y")),
            ("/s.tok/a?b", Some("/s.tok/a?b")),
            ("//a", Some("/a")),
            ("/", None),
            ("/?a", None),
            ("/ready", None),
            ("*", None),
            ("/tok/\"", None),
            ("/tok/#a", None),
            ("/tok/\u{e4}", None),
            ("http://h/tok/", None),
        ] {
            let found = sent(&format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n"));
            let line = found.map(|(_, text)| text.lines().next().unwrap().to_owned());
            assert_eq!(line, forward.map(|forward| format!("GET {forward} HTTP/1.1")), "{path}");
        }
    }

    #[test]
    fn whatever_is_not_plain_is_left_to_the_rules() {
        let head = |line: &str, lines: &str| format!("{line} /tok/ HTTP/1.1\r\n{lines}\r\n");
        assert!(sent(&head("GET", "Host: h\r\n")).is_some());
        for (method, lines) in [
            ("TRACE", "Host: h\r\n"),
            ("CONNECT", "Host: h\r\n"),
            ("get", "Host: h\r\n"),
            ("GET", ""),
            ("GET", "Host: h\r\nHost: h\r\n"),
            ("GET", "Host: h\r\nContent-Length: 0\r\nContent-Length: 0\r\n"),
            ("POST", "Host: h\r\nContent-Length: +0\r\n"),
            ("POST", "Host: h\r\nContent-Length: 0, 0\r\n"),
            ("POST", "Host: h\r\nContent-Length: 1\r\n"),
            ("POST", "Host: h\r\nContent-Length: 18446744073709551615\r\n"),
            ("GET", "Host: h\r\nTransfer-Encoding: chunked\r\n"),
            ("GET", "Host: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"),
            ("GET", "Host: h\r\nConnection: close\r\n"),
            ("GET", "Host: h\r\nConnection: keep-alive, cookie\r\n"),
            ("GET", "Host: h\r\nExpect: 100-continue\r\n"),
            ("GET", "Host: h\r\nTE: trailers\r\n"),
            ("GET", "Host: h\r\nCookie: a\r\nCookie: b\r\n"),
            ("GET", "Host: h\r\nX-Verified-Username: root\r\n"),
            ("GET", "Host: h\r\nX_Verified_Username: root\r\n"),
            ("GET", "Host: h\r\nX-Forwarded-For: 1.2.3.4\r\n"),
            ("GET", "Host: h\r\nX-Real-IP: 1.2.3.4\r\n"),
            ("GET", "Host: h\r\nRemote_User: root\r\n"),
            ("GET", "Host: h\r\nProxy: http://evil\r\n"),
            ("POST", "Host: h\r\nContent_Length: 1\r\n"),
            ("GET", "Host: h\r\n folded: x\r\n"),
            ("GET", "Host: h\r\nname : x\r\n"),
        ] {
            assert!(sent(&head(method, lines)).is_none(), "{method} {lines:?}");
        }
        for cut in ["GET /tok/ HTTP/1.1\r\nHost: h\r\n", "GET /tok/ HTTP/1.0\r\nHost: h\r\n\r\n", "G"] {
            assert!(sent(cut).is_none(), "{cut:?}");
        }
    }

    #[test]
    fn a_forwarders_word_is_kept_apart() {
        let request = b"GET /tok/ HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1\r\n\
            X-Real-IP: 1.2.3.4\r\n\r\n";
        let mut text = Vec::new();
        let head = read(request, true, |_| Place::Own, &mut text).unwrap();
        assert_eq!(text, b"GET / HTTP/1.1\r\nHost: h\r\n");
        assert_eq!(head.said["x-forwarded-for"], "1.2.3.4");
        assert_eq!(head.said["forwarded"], "for=1");
        assert_eq!(head.said["x-real-ip"], "1.2.3.4");
    }
}
