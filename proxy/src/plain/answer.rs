//! The head of a backend's answer: the head for its client, and the end of its body (RFC 9112
//! §6.3). Pure.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use jetway_protocol::time::UnixMicros;

use super::chunks::{Body, Chunks, Malformed};
use crate::headers::framing::Framing;
use crate::headers::rules::{self, InAnswer};
use crate::headers::{self, Served, plain};
use crate::upstream::HEAD_BYTES_MAX;

/// Lines of nearly every answer, and of any.
const LINES: usize = 48;
const LINES_MAX: usize = 100;

/// The request that an answer is made for.
#[derive(Debug, Clone, Copy)]
pub struct For<'a> {
    /// To a HEAD, there is no body.
    pub is_head: bool,
    /// The backend's id.
    pub backend: &'a HeaderValue,
    pub served: Served<'a>,
    /// The client is to ask no more on this connection.
    pub closes: bool,
}

/// A head that was written down for its client.
#[derive(Debug)]
pub struct ResponseHead {
    /// Bytes of the head, up to and including the empty line.
    pub length: usize,
    pub body: Body,
    /// Whether the backend's connection takes another request after it.
    pub goes_on: bool,
}

#[derive(Debug)]
pub enum Read {
    Partial,
    /// One that comes before the answer (RFC 9110 §15.2), of so many bytes.
    Interim(usize),
    /// To another protocol, without a wish for it.
    Switching,
    Answer(ResponseHead),
}

/// Writes the head for the client to `text`.
pub fn read(bytes: &[u8], wanted: &For<'_>, text: &mut Vec<u8>) -> Result<Read, Malformed> {
    let mut lines = [httparse::EMPTY_HEADER; LINES];
    let mut response = httparse::Response::new(&mut lines);
    match response.parse(bytes) {
        Ok(httparse::Status::Partial) => return Ok(Read::Partial),
        Ok(httparse::Status::Complete(length)) => return answer(length, &response, wanted, text),
        Err(httparse::Error::TooManyHeaders) => {}
        Err(_) => return Err(Malformed),
    }
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let mut response = httparse::Response::new(&mut lines);
    match response.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(Read::Partial),
        Ok(httparse::Status::Complete(length)) => answer(length, &response, wanted, text),
        Err(_) => Err(Malformed),
    }
}

/// The content of its lines.
#[derive(Debug, Default)]
struct Said {
    framing: Framing,
    closes: bool,
    has_date: bool,
    has_policy: bool,
    has_cors: bool,
    /// Some line is for the rules.
    is_ruled: bool,
}

fn answer(
    length: usize,
    response: &httparse::Response<'_, '_>,
    wanted: &For<'_>,
    text: &mut Vec<u8>,
) -> Result<Read, Malformed> {
    let status = response.code.ok_or(Malformed)?;
    match status {
        _ if length > HEAD_BYTES_MAX => return Err(Malformed),
        101 => return Ok(Read::Switching),
        100..200 => return Ok(Read::Interim(length)),
        200..1000 => {}
        _ => return Err(Malformed),
    }
    let said = Said::by(response.headers)?;
    let is_1_1 = response.version == Some(1);
    said.framing.check(!is_1_1)?;
    let Framing { is_chunked, length: content_length, .. } = said.framing;
    let body = match (status, content_length) {
        _ if wanted.is_head => Body::None,
        (204 | 304, _) => Body::None,
        _ if is_chunked => Body::Chunks(Chunks::default()),
        (_, Some(0)) => Body::None,
        (_, Some(length)) => Body::Length(length),
        (_, None) => Body::ToTheEnd,
    };
    let goes_on = is_1_1 && !said.closes && !matches!(body, Body::ToTheEnd);
    text.extend_from_slice(b"HTTP/1.1 ");
    text.extend_from_slice(format!("{status} ").as_bytes());
    let canonical = || StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let reason = response.reason.filter(|reason| !reason.is_empty()).or_else(canonical);
    text.extend_from_slice(reason.unwrap_or_default().as_bytes());
    text.extend_from_slice(b"\r\n");
    let content_length = content_length.filter(|_| status != 204);
    if said.is_ruled || said.framing.is_repeated {
        by_rule(response.headers, wanted, content_length, text)?;
    } else {
        as_it_came(response.headers, &said, wanted, content_length.is_some(), text);
    }
    if matches!(body, Body::Chunks(_) | Body::ToTheEnd) {
        plain::write_line(text, "transfer-encoding", b"chunked");
    }
    finish(text, said.has_date, wanted.closes);
    Ok(Read::Answer(ResponseHead { length, body, goes_on }))
}

impl Said {
    fn by(lines: &[httparse::Header<'_>]) -> Result<Self, Malformed> {
        let mut said = Self::default();
        for line in lines {
            match rules::in_answer(line.name.as_bytes()) {
                InAnswer::Passes => {}
                InAnswer::Length => said.framing.length(line.value)?,
                InAnswer::Encoding => said.framing.encoding(line.value)?,
                InAnswer::Connection if line.value.eq_ignore_ascii_case(b"close") => said.closes = true,
                InAnswer::Connection if line.value.eq_ignore_ascii_case(b"keep-alive") => {}
                InAnswer::Connection => (said.is_ruled, said.closes) = (true, true),
                InAnswer::Date => said.has_date = true,
                InAnswer::Policy => said.has_policy = true,
                InAnswer::Cors => said.has_cors = true,
                // Where they do not pass, they are left out.
                InAnswer::Guarded => {}
                InAnswer::Removed | InAnswer::OwnOrigin | InAnswer::SiteData => said.is_ruled = true,
                InAnswer::Cookie | InAnswer::Id => said.is_ruled = true,
            }
        }
        Ok(said)
    }
}

fn as_it_came(
    lines: &[httparse::Header<'_>],
    said: &Said,
    wanted: &For<'_>,
    has_length: bool,
    text: &mut Vec<u8>,
) {
    let is_guarded = wanted.served.is_guarded();
    for line in lines {
        match rules::in_answer(line.name.as_bytes()) {
            InAnswer::Connection | InAnswer::Encoding => {}
            InAnswer::Guarded if is_guarded => {}
            InAnswer::Length if !has_length => {}
            _ => plain::write_line(text, line.name, line.value),
        }
    }
    let backend = wanted.backend.as_bytes();
    plain::tell_client(text, backend, said.has_policy, said.has_cors, &wanted.served);
}

fn by_rule(
    lines: &[httparse::Header<'_>],
    wanted: &For<'_>,
    content_length: Option<u64>,
    text: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let mut headers = HeaderMap::with_capacity(lines.len() + 6);
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Malformed)?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| Malformed)?;
        if name != CONTENT_LENGTH {
            headers.append(name, value);
        }
    }
    headers::to_client(&mut headers, wanted.backend, &wanted.served, None);
    if let Some(length) = content_length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    plain::write_all(text, &headers);
    Ok(())
}

/// An answer of the proxy's own, whose body follows.
pub fn own<B>(response: &Response<B>, length: usize, closes: bool, text: &mut Vec<u8>) {
    let status = response.status();
    let line = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    text.extend_from_slice(line.as_bytes());
    plain::write_all(text, response.headers());
    plain::write_line(text, "content-length", length.to_string().as_bytes());
    finish(text, false, closes);
}

fn finish(text: &mut Vec<u8>, has_date: bool, closes: bool) {
    if !has_date {
        write_date(text);
    }
    if closes {
        plain::write_line(text, "connection", b"close");
    }
    text.extend_from_slice(b"\r\n");
}

thread_local! {
    /// The second that was written last, and how.
    static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// A proxy dates an answer that has no date (RFC 9110 §6.6.1).
fn write_date(text: &mut Vec<u8>) {
    let second = u64::try_from(UnixMicros::now().0 / 1_000_000).unwrap_or(0);
    DATE.with_borrow_mut(|(written, date)| {
        if *written != second || date.is_empty() {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            (*written, *date) = (second, httpdate::fmt_http_date(now));
        }
        plain::write_line(text, "date", date.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Shared;

    static BACKEND: HeaderValue = HeaderValue::from_static("b-1");

    fn wanted() -> For<'static> {
        For { is_head: false, backend: &BACKEND, served: Served::Alone, closes: false }
    }

    fn told(answer: &str, wanted: &For<'_>) -> Result<(ResponseHead, String), Option<Malformed>> {
        let mut text = Vec::new();
        match read(answer.as_bytes(), wanted, &mut text) {
            Ok(Read::Answer(head)) => Ok((head, String::from_utf8(text).unwrap())),
            Ok(_) => Err(None),
            Err(malformed) => Err(Some(malformed)),
        }
    }

    #[test]
    fn an_answer_passes_with_what_its_client_is_told() {
        let answer = "HTTP/1.1 200 Fine\r\nContent-Length: 3\r\nDate: d\r\nConnection: keep-alive\r\n\r\nabc";
        let (head, text) = told(answer, &wanted()).unwrap();
        assert_eq!(&answer[head.length..], "abc");
        assert!(head.goes_on && matches!(head.body, Body::Length(3)));
        let expect = "HTTP/1.1 200 Fine\r\nContent-Length: 3\r\nDate: d\r\nx-plane-backend-id: b-1\r\n\
            referrer-policy: strict-origin\r\naccess-control-allow-origin: *\r\n\
            access-control-allow-methods: *\r\naccess-control-allow-headers: *, Authorization\r\n\r\n";
        assert_eq!(text, expect);
        let closing = For { closes: true, ..wanted() };
        let (_, text) = told("HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n", &closing).unwrap();
        assert!(text.starts_with("HTTP/1.1 204 No Content\r\nx-plane"), "{text}");
        assert!(text.contains("\r\ndate: ") && text.ends_with("\r\nconnection: close\r\n\r\n"), "{text}");
    }

    #[test]
    fn where_bodies_end() {
        let table: [(&str, &str, bool); 12] = [
            ("1.1 200 OK\r\nContent-Length: 0", "None", true),
            ("1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 7", "Length(7)", true),
            ("1.1 200 OK\r\nContent-Length: 7, 7", "Length(7)", true),
            ("1.1 200 OK\r\nTransfer-Encoding: Chunked", "Chunks", true),
            ("1.1 200 OK", "ToTheEnd", false),
            ("1.1 200 OK\r\nContent-Length: 7\r\nConnection: close", "Length(7)", false),
            ("1.1 200 OK\r\nContent-Length: 7\r\nConnection: keep-alive, x-a", "Length(7)", false),
            ("1.0 200 OK\r\nContent-Length: 7", "Length(7)", false),
            ("1.0 200 OK", "ToTheEnd", false),
            ("1.1 304 Not Modified\r\nContent-Length: 7", "None", true),
            ("1.1 204 No Content", "None", true),
            ("1.1 599 Odd\r\nContent-Length: 1", "Length(1)", true),
        ];
        for (answer, body, goes_on) in table {
            let (head, _) = told(&format!("HTTP/{answer}\r\n\r\n"), &wanted()).unwrap();
            assert!(format!("{:?}", head.body).starts_with(body), "{answer}: {:?}", head.body);
            assert_eq!(head.goes_on, goes_on, "{answer}");
        }
        let of_a_head = For { is_head: true, ..wanted() };
        let (head, text) = told("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", &of_a_head).unwrap();
        assert!(matches!(head.body, Body::None) && head.goes_on && text.contains("Content-Length: 7\r\n"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_answer() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 8\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 7, 8\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +7\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
        ] {
            assert_eq!(told(answer, &wanted()).err(), Some(Some(Malformed)), "{answer:?}");
        }
        let mut text = Vec::new();
        let mut kind = |bytes: &[u8]| read(bytes, &wanted(), &mut text).unwrap();
        assert!(matches!(kind(b"HTTP/1.1 100 Continue\r\n\r\n"), Read::Interim(25)));
        assert!(matches!(kind(b"HTTP/1.1 101 Switching\r\n\r\n"), Read::Switching));
        assert!(matches!(kind(b"HTTP/1.1 200 OK\r\nA: b\r\n"), Read::Partial));
    }

    #[test]
    fn lines_that_rules_speak_of_are_theirs() {
        let shared = Shared { prefix: "/tok", asked: "/tok/a", path_is_kept: false };
        let wanted = For { served: Served::Shared(shared), ..wanted() };
        let many: String = (0..60).map(|number| format!("X-{number}: y\r\n")).collect();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: a=b; Path=/\r\nClear-Site-Data: \"*\"\r\n\
            Connection: x-5\r\nReferrer-Policy: origin\r\n{many}\r\n"
        );
        let (_, text) = told(&answer, &wanted).unwrap();
        assert!(text.contains("set-cookie: a=b; Path=/tok\r\n") && text.contains("x-59: y\r\n"), "{text}");
        assert!(
            text.contains("referrer-policy: origin\r\n") && text.contains("content-length: 0\r\n"),
            "{text}"
        );
        for gone in ["clear-site-data", "x-5:", "connection"] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
    }
}
