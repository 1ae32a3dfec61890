//! A service worker's script on a session's host. A worker answers for its whole origin, the proxy's
//! own paths among it: so each script begins with a listener that leaves `/.jetway/` to the network.
//! It stands before anything of the script, and is all that is added: only the script's beginning
//! is looked at, the rest passes as it comes.

use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, VARY,
};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use crate::forward::response_body::ResponseBody;
use crate::problem::Problem;
use crate::upstream::request_body::Polled;

const SERVICE_WORKER: &str = "service-worker";
const DEST: &str = "sec-fetch-dest";
/// Bytes of a script that may stand before its first statement, such as a licence. Behind more of
/// them, it is taken for one without a directive.
const START_BYTES_MAX: usize = 16 * 1024;

/// What the answer must be whole for, and what would be wrong of the longer script.
static WHOLE: [HeaderName; 6] =
    [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE];
static OF_THE_OTHER: [HeaderName; 7] = [
    ACCEPT_RANGES,
    ETAG,
    LAST_MODIFIED,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// Both have the same length, so that an answer's length is known before its script is.
static SLOPPY: LazyLock<Bytes> = LazyLock::new(|| listener("             "));
static STRICT: LazyLock<Bytes> = LazyLock::new(|| listener("\"use strict\";"));

fn listener(before: &str) -> Bytes {
    // In one line, so that a script's own lines keep their numbers.
    let text: String = include_str!("first_listener.js").lines().map(str::trim).collect();
    format!("{before}{text}").into()
}

/// Whether a browser fetches a worker's script, or what that imports.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.contains_key(SERVICE_WORKER) || headers.get(DEST).is_some_and(|dest| dest == "serviceworker")
}

/// Whether it is the script itself.
pub fn is_the_script(headers: &HeaderMap) -> bool {
    headers.contains_key(SERVICE_WORKER)
}

/// The same for the plain lane, which leaves it to the other one.
pub fn is_noticed(name: &str, value: &[u8]) -> bool {
    name.eq_ignore_ascii_case(SERVICE_WORKER)
        || (name.eq_ignore_ascii_case(DEST) && value == b"serviceworker")
}

/// So that the answer is the script, all of it, and as it is written.
pub fn ask_for_all(headers: &mut HeaderMap) {
    for name in &WHOLE {
        headers.remove(name);
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Whatever type the answer says: browsers know several ways to say that it is a script.
pub fn with_first_listener(mut response: Response<ResponseBody>) -> Result<Response<ResponseBody>, Problem> {
    let status = response.status();
    // It was asked without conditions and for all of it: a browser that took this would keep a
    // script of before, without the listener.
    if matches!(status, StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT) {
        return Err(Problem::BadAnswer);
    }
    if !status.is_success() || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) {
        return Ok(response);
    }
    let headers = response.headers_mut();
    let is_plain = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
        return Err(Problem::EncodedWorker);
    }
    for name in &OF_THE_OTHER {
        headers.remove(name);
    }
    // Of several, browsers take the last.
    if let Some(last) = headers.get_all(CONTENT_TYPE).iter().next_back().cloned() {
        headers.insert(CONTENT_TYPE, last);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.append(VARY, HeaderValue::from_static(SERVICE_WORKER));
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    headers.remove(CONTENT_LENGTH);
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length.saturating_add(SLOPPY.len() as u64)));
    }
    Ok(response.map(|script| ResponseBody::Script(Box::new(Script::new(script)))))
}

/// A script behind its first listener.
#[derive(Debug)]
pub struct Script {
    script: ResponseBody,
    /// What has come of its beginning. `None`: the listener has gone.
    start: Option<BytesMut>,
    /// The listener and the beginning, to go next.
    next: Option<Bytes>,
    /// Trailers that came before the listener had gone.
    late: Option<Frame<Bytes>>,
}

impl Script {
    fn new(script: ResponseBody) -> Self {
        Self { script, start: Some(BytesMut::new()), next: None, late: None }
    }

    /// The listener goes, if so much of the script is enough to choose it.
    fn choose(&mut self, is_all: bool) {
        let Some(start) = &mut self.start else { return };
        let is_strict = match is_strict(start) {
            None if !is_all && start.len() < START_BYTES_MAX => return,
            is_strict => is_strict.unwrap_or(false),
        };
        // `#!` is a comment at the very beginning alone.
        let begins = if start.starts_with(BOM) { BOM.len() } else { 0 };
        if start[begins..].starts_with(b"#!") {
            start[begins..begins + 2].copy_from_slice(b"//");
        }
        let listener = if is_strict { &STRICT } else { &SLOPPY };
        self.next = Some([&listener[..], &start[..]].concat().into());
        self.start = None;
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<hyper::Error> {
        let this = &mut *self;
        loop {
            if let Some(next) = this.next.take() {
                return Poll::Ready(Some(Ok(Frame::data(next))));
            }
            if this.start.is_none() {
                return match this.late.take() {
                    Some(late) => Poll::Ready(Some(Ok(late))),
                    None => Pin::new(&mut this.script).poll_frame(cx),
                };
            }
            match ready!(Pin::new(&mut this.script).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        if let Some(start) = &mut this.start {
                            start.extend_from_slice(&data);
                        }
                        this.choose(false);
                    }
                    Err(trailers) => {
                        this.late = Some(trailers);
                        this.choose(true);
                    }
                },
                None => this.choose(true),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.start.is_none() && self.next.is_none() && self.late.is_none() && self.script.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let listener = if self.start.is_some() { SLOPPY.len() } else { 0 };
        let here = listener + self.start.as_ref().map_or(0, |start| start.len());
        let here = (here + self.next.as_ref().map_or(0, Bytes::len)) as u64;
        let (rest, mut hint) = (self.script.size_hint(), SizeHint::new());
        hint.set_lower(rest.lower() + here);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + here);
        }
        hint
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";
/// What ends a line (ECMA-262 §12.3), and what else is no statement (§12.2).
const LINE_ENDS: [&[u8]; 4] = [b"\n", b"\r", b"\xe2\x80\xa8", b"\xe2\x80\xa9"];
const BLANKS: [&[u8]; 6] = [b" ", b"\t", b"\x0b", b"\x0c", b"\xc2\xa0", BOM];

/// Whether a script begins with the directive `use strict` (ECMA-262 §11.2.1). `None`: so much of
/// it does not say. One that is taken for sloppy works all the same, but for its mistakes.
fn is_strict(script: &[u8]) -> Option<bool> {
    let mut rest = script.strip_prefix(BOM).unwrap_or(script);
    // It may be half of a hashbang.
    if rest == b"#" {
        return None;
    }
    if let Some(hashbang) = rest.strip_prefix(b"#!") {
        rest = behind_line(hashbang)?;
    }
    loop {
        rest = behind_blanks(rest)?;
        let quote = rest[0];
        if !b"'\"".contains(&quote) {
            return Some(false);
        }
        let length = rest[1..].iter().position(|byte| *byte == quote || *byte == b'\\' || *byte == b'\n')?;
        if rest[1 + length] != quote {
            return Some(false);
        }
        let (directive, behind) = (&rest[1..1 + length], &rest[length + 2..]);
        let next = behind_blanks(behind)?;
        // Without a semicolon, the line's end must end it: what goes on is an expression.
        let ends = next[0] == b';' || next[0] == b'}' || is_on_a_new_line(behind, next);
        match (directive, ends) {
            (b"use strict", true) => return Some(true),
            (_, true) => rest = next.strip_prefix(b";").unwrap_or(next),
            (_, false) => return Some(false),
        }
    }
}

/// A statement may begin there, and does not go on with the one before.
fn is_on_a_new_line(behind: &[u8], next: &[u8]) -> bool {
    let between = &behind[..behind.len() - next.len()];
    let has_end = LINE_ENDS.iter().any(|end| between.windows(end.len()).any(|part| part == *end));
    has_end && (next[0].is_ascii_alphanumeric() || b"_$'\"{".contains(&next[0]))
}

/// Behind white space and comments: at least one byte. `None`: it takes more to say.
fn behind_blanks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        // The longest sign has three bytes.
        if rest.len() < 3 && !rest.is_ascii() || rest.is_empty() || rest == b"/" {
            return None;
        }
        let blank = LINE_ENDS.iter().chain(&BLANKS).find_map(|sign| rest.strip_prefix(*sign));
        rest = if let Some(rest) = blank {
            rest
        } else if let Some(comment) = rest.strip_prefix(b"//") {
            behind_line(comment)?
        } else if let Some(comment) = rest.strip_prefix(b"/*") {
            let end = comment.windows(2).position(|end| end == b"*/")?;
            &comment[end + 2..]
        } else {
            return Some(rest);
        };
    }
}

fn behind_line(rest: &[u8]) -> Option<&[u8]> {
    let end = (0..rest.len()).find(|at| LINE_ENDS.iter().any(|end| rest[*at..].starts_with(end)))?;
    Some(&rest[end..])
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn a_directive_is_the_first_statement() {
        for (script, expect) in [
            ("'use strict';x", Some(true)),
            ("\"use strict\"\nlet a", Some(true)),
            ("\u{feff}// c\n/* d */ 'use strict' ;", Some(true)),
            ("#!/bin/node\n'use strict';", Some(true)),
            ("#!\u{2028}'use strict';", Some(true)),
            ("'use asm';'use strict';", Some(true)),
            ("'use strict' /* c */ ;", Some(true)),
            ("'use strict'.length;", Some(false)),
            ("'use strict'\n.length;", Some(false)),
            ("'use strict' + x;", Some(false)),
            ("'use\\x20strict';", Some(false)),
            ("('use strict');", Some(false)),
            ("let a;'use strict';", Some(false)),
            ("// 'use strict'\nx", Some(false)),
            ("", None),
            ("#", None),
            ("\u{feff}#", None),
            ("/", None),
            ("/* c", None),
            ("// c", None),
            ("'use str", None),
            ("'use strict'", None),
        ] {
            assert_eq!(is_strict(script.as_bytes()), expect, "{script:?}");
        }
    }

    async fn sent(pieces: &[&str]) -> String {
        let mut script = Script::new(ResponseBody::own(Bytes::new()));
        let mut text = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            match &mut script.start {
                Some(start) => start.extend_from_slice(piece.as_bytes()),
                None => text.extend_from_slice(piece.as_bytes()),
            }
            script.choose(at + 1 == pieces.len());
            text.extend(script.next.take().unwrap_or_default());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn the_listener_stands_before_all_of_the_script() {
        let (sloppy, strict) = (String::from_utf8_lossy(&SLOPPY), String::from_utf8_lossy(&STRICT));
        assert_eq!(sloppy.len(), strict.len());
        assert!(!sloppy.contains('\n') && sloppy.ends_with(';'), "{sloppy}");
        for (script, expect) in [
            ("x()", format!("{sloppy}x()")),
            ("", sloppy.to_string()),
            ("'use strict';x()", format!("{strict}'use strict';x()")),
            ("#!\u{2028}evil()//\nx()", format!("{sloppy}//\u{2028}evil()//\nx()")),
            ("\u{feff}#!a\nx()", format!("{sloppy}\u{feff}//a\nx()")),
        ] {
            assert_eq!(sent(&[script]).await, expect, "{script:?}");
            let pieces: Vec<String> = script.chars().map(String::from).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            if !pieces.is_empty() {
                assert_eq!(sent(&pieces).await, expect, "{script:?} in pieces");
            }
        }
        let licence = format!("/*{}", "x".repeat(2 * START_BYTES_MAX));
        assert!(sent(&[&licence, "*/'use strict'"]).await.starts_with(&format!("{sloppy}/*xx")));
    }

    #[tokio::test]
    async fn whatever_its_type_a_script_has_the_listener() {
        let answered = |lines: &[(&str, &str)]| {
            let mut response = Response::new(ResponseBody::own(Bytes::from_static(b"x()")));
            for (name, value) in lines {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                response.headers_mut().append(name, value.parse().unwrap());
            }
            with_first_listener(response)
        };
        for types in [&["text/html", "text/javascript"][..], &["text/html;a=b, text/javascript"], &[]] {
            let lines: Vec<_> = types.iter().map(|kind| ("content-type", *kind)).collect();
            let lines = [&lines[..], &[("content-length", "3"), ("etag", "\"x\"")]].concat();
            let response = answered(&lines).unwrap();
            let headers = response.headers().clone();
            assert!(headers.get_all(CONTENT_TYPE).iter().count() <= 1);
            assert_eq!((headers[CACHE_CONTROL].as_bytes(), headers.get(ETAG)), (&b"no-store"[..], None));
            assert_eq!(headers[VARY], "service-worker");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(headers[CONTENT_LENGTH], body.len().to_string());
            assert!(body.starts_with(&SLOPPY) && body.ends_with(b";x()"));
        }
        assert_eq!(answered(&[("content-encoding", "gzip")]).err(), Some(Problem::EncodedWorker));
        assert!(answered(&[("content-encoding", "identity")]).is_ok());
    }
}
