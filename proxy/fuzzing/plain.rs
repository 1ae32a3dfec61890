//! A plain request and a plain answer, read from the bytes of a socket: what is written down for
//! the other side is one message, with nothing of ours or of the connection behind in it, and a
//! body is the same in whatever pieces it comes.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::headers::{is_a_forwarders, is_of_one_connection, is_ours, values};
use super::{cookies, response};
use crate::headers::{Readers, Served, Shared};
use crate::plain::answer::{self, For, Read};
use crate::plain::chunks::{Body, Malformed, Progress};
use crate::plain::on_host::Place;
use crate::plain::request::{self, Form};

const LINES_MAX: usize = 200;
static BACKEND: HeaderValue = HeaderValue::from_static("b-1");

/// `bytes`: what a client sends, or what a backend does.
pub fn plain(bytes: &[u8]) {
    for trusted in [false, true] {
        for takes_paths in [None, Some(true), Some(false)] {
            a_request(bytes, trusted, takes_paths);
        }
    }
    let shared = Shared { prefix: "/tok", asked: "/tok/a", path_is_kept: false };
    let guard = response::guard();
    for (is_head, served) in [
        (false, Served::Shared(shared)),
        (false, Served::Alone),
        (true, Served::Alone),
        (false, Served::Guarded(&guard, &Readers::Own)),
    ] {
        an_answer(bytes, &For { is_head, backend: &BACKEND, served, closes: false });
    }
}

/// `takes_paths`: of a session's host; on the cluster's own, `None`.
fn a_request(bytes: &[u8], trusted: bool, takes_paths: Option<bool>) {
    let mut text = Vec::new();
    let place = takes_paths.map_or(Place::Own, |takes_paths| Place::Session { takes_paths });
    let Some(head) = request::read(bytes, trusted, |_| place, &mut text) else { return };
    let is_host_form = matches!(head.form, Form::Host { .. });
    assert!(takes_paths != Some(false) || is_host_form, "no path carries a token there");
    assert!(takes_paths.is_some() || head.form == (Form::Path { is_own: true }));
    assert!(head.body.end <= bytes.len() && head.body.start <= head.body.end, "{head:?}");
    assert!(head.path(bytes).starts_with('/'), "{head:?}");
    text.extend_from_slice(b"\r\n");
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let mut sent = httparse::Request::new(&mut lines);
    assert_eq!(sent.parse(&text), Ok(httparse::Status::Complete(text.len())), "{text:?}");
    assert_eq!((sent.method, sent.version), (Some(head.method.as_str()), Some(1)));
    let path = sent.path.unwrap_or_default();
    assert!(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
    assert!(
        bytes.windows(path.len()).any(|part| part == path.as_bytes())
            || path.starts_with("/?")
            || path == "/"
    );
    let headers = all(sent.headers);
    if is_host_form {
        on_a_host(bytes, &head.form, path, &headers);
    }
    assert_eq!(values(&headers, "host"), [head.host(bytes)], "{headers:?}");
    assert!(values(&headers, "cookie").len() <= 1, "{headers:?}");
    for name in headers.keys().map(HeaderName::as_str) {
        assert!(!is_ours(name) && !is_of_one_connection(name) && name != "te" && name != "expect", "{name}");
    }
    match values(&headers, "content-length")[..] {
        [] => assert!(head.body.is_empty()),
        [length] => assert_eq!(String::from_utf8_lossy(length).parse(), Ok(head.body.len())),
        _ => panic!("{headers:?}"),
    }
    assert!(trusted || head.said.is_empty());
    for name in head.said.keys().map(HeaderName::as_str) {
        assert!(is_a_forwarders(name), "{name}");
    }
}

/// In the host form, all of the path is the application's, and none of the proxy's cookies.
fn on_a_host(bytes: &[u8], form: &Form, path: &str, headers: &HeaderMap) {
    let Form::Host { cookie } = form else { return };
    assert!(cookie.end <= bytes.len() && !bytes[cookie.clone()].contains(&b';'));
    assert!(bytes.windows(path.len()).any(|part| part == path.as_bytes()), "{path}");
    assert!(!path.starts_with("/.jetway/"), "{path}");
    for cookie in values(headers, "cookie").iter().flat_map(|line| line.split(|byte| *byte == b';')) {
        assert!(!cookies::is_the_proxys(cookie), "{headers:?}");
    }
    assert!(!headers.contains_key("x-jetway-token") && !headers.contains_key("service-worker"));
}

fn all(lines: &[httparse::Header<'_>]) -> HeaderMap {
    let of = |line: &httparse::Header<'_>| {
        let name = HeaderName::from_bytes(line.name.as_bytes()).expect("a name");
        (name, HeaderValue::from_bytes(line.value).expect("a value"))
    };
    lines.iter().map(of).collect()
}

fn an_answer(bytes: &[u8], wanted: &For<'_>) {
    let mut text = Vec::new();
    let Ok(Read::Answer(head)) = answer::read(bytes, wanted, &mut text) else { return };
    let (mut before, mut after) = (LinesOf::a(bytes), LinesOf::a(&text));
    assert_eq!((before.length, after.length), (head.length, text.len()));
    assert_eq!(before.status, after.status);
    let framing = values(&after.headers, "transfer-encoding");
    match &head.body {
        Body::None => assert!(framing.is_empty()),
        Body::Length(length) => {
            assert!(framing.is_empty());
            let said = values(&after.headers, "content-length");
            assert_eq!(said, [said[0]], "one length");
            assert_eq!(String::from_utf8_lossy(said[0]).parse(), Ok(*length));
        }
        Body::Chunks(_) | Body::ToTheEnd => {
            assert_eq!(framing, [b"chunked"]);
            assert!(!after.headers.contains_key("content-length"));
        }
    }
    if !before.headers.contains_key("date") {
        assert!(after.headers.remove("date").is_some());
    }
    for headers in [&mut before.headers, &mut after.headers] {
        for name in ["transfer-encoding", "content-length"] {
            headers.remove(name);
        }
    }
    response::said(&before.headers, &after.headers, &wanted.served, None);
    a_body(head.body, &bytes[head.length..]);
}

/// A head, read once more.
struct LinesOf {
    length: usize,
    status: Option<u16>,
    headers: HeaderMap,
}

impl LinesOf {
    fn a(bytes: &[u8]) -> Self {
        let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
        let mut response = httparse::Response::new(&mut lines);
        let Ok(httparse::Status::Complete(length)) = response.parse(bytes) else { panic!("{bytes:?}") };
        Self { length, status: response.code, headers: all(response.headers) }
    }
}

fn a_body(body: Body, bytes: &[u8]) {
    let is_chunked = matches!(body, Body::Chunks(_) | Body::ToTheEnd);
    let again = match &body {
        Body::None => Body::None,
        Body::Length(length) => Body::Length(*length),
        Body::Chunks(_) => Body::Chunks(Default::default()),
        Body::ToTheEnd => Body::ToTheEnd,
    };
    let (at_once, in_pieces) = (carried(body, bytes, bytes.len().max(1)), carried(again, bytes, 1));
    let data = |(text, progress): (Vec<u8>, Progress)| {
        (if is_chunked { unchunked(&text, progress) } else { text }, progress)
    };
    assert_eq!(at_once.map(data), in_pieces.map(data));
}

fn carried(mut body: Body, bytes: &[u8], piece: usize) -> Result<(Vec<u8>, Progress), Malformed> {
    let (mut text, mut progress, mut taken) = (Vec::new(), Progress::More, 0);
    for piece in bytes.chunks(piece) {
        progress = body.take(piece, &mut text)?;
        taken += piece.len();
        if let Progress::Done { beyond } = progress {
            return Ok((text, Progress::Done { beyond: beyond + bytes.len() - taken }));
        }
    }
    Ok((text, progress))
}

/// What we write ourselves: sizes without extensions, no trailers.
fn unchunked(mut text: &[u8], progress: Progress) -> Vec<u8> {
    let mut data = Vec::new();
    while !text.is_empty() {
        let end = text.windows(2).position(|two| two == b"\r\n").expect("a size");
        let size = usize::from_str_radix(&String::from_utf8_lossy(&text[..end]), 16).expect("a number");
        let (chunk, rest) = text[end + 2..].split_at(size);
        data.extend_from_slice(chunk);
        assert_eq!(&rest[..2], b"\r\n");
        text = &rest[2..];
        if size == 0 {
            assert!(text.is_empty() && matches!(progress, Progress::Done { .. }));
        }
    }
    data
}
