//! How the head of an answer frames its body (RFC 9112 §6.1 to §6.3): both lanes' one verdict.
//!
//! An answer that two parsers could end at different bytes is refused, because the next parser on
//! the way to the client may be the other one. Transfer-Encoding is `chunked` alone, in HTTP/1.1
//! and without a length beside it; lengths are valid and equal, and become one.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Response, Version};

/// Bytes of a body: hyper's bound, below which every length can be counted.
const LENGTH_MAX: u64 = u64::MAX - 2;

/// No head of an answer, or one that can be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misframed;

/// The framing by the lines of a head that were read so far.
#[derive(Debug, Default)]
pub struct Framing {
    pub is_chunked: bool,
    pub length: Option<u64>,
    /// The length was said more than once.
    pub is_repeated: bool,
}

impl Framing {
    pub fn encoding(&mut self, value: &[u8]) -> Result<(), Misframed> {
        // The client would not be told of other codings around or inside of the chunks.
        let is_chunked = !self.is_chunked && value.eq_ignore_ascii_case(b"chunked");
        self.is_chunked = true;
        if is_chunked { Ok(()) } else { Err(Misframed) }
    }

    pub fn length(&mut self, value: &[u8]) -> Result<(), Misframed> {
        for value in value.split(|byte| *byte == b',') {
            let length = digits(value.trim_ascii()).filter(|length| *length <= LENGTH_MAX);
            let length = length.ok_or(Misframed)?;
            match self.length.replace(length) {
                None => {}
                Some(before) if before == length => self.is_repeated = true,
                Some(_) => return Err(Misframed),
            }
        }
        Ok(())
    }

    /// After all lines.
    pub fn check(&self, is_1_0: bool) -> Result<(), Misframed> {
        let is_odd = self.is_chunked && (is_1_0 || self.length.is_some());
        if is_odd { Err(Misframed) } else { Ok(()) }
    }
}

/// Checks an answer that hyper has read, and leaves it one length at most. hyper itself takes any
/// coding before `chunked`, and a length beside it.
pub fn checked<B>(response: &mut Response<B>) -> Result<(), Misframed> {
    if response.status().is_informational() {
        return Ok(());
    }
    let (headers, mut framing) = (response.headers(), Framing::default());
    of_all(headers, &mut framing)?;
    framing.check(response.version() == Version::HTTP_10)?;
    if let Some(length) = framing.length.filter(|_| framing.is_repeated) {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

fn of_all(headers: &HeaderMap, framing: &mut Framing) -> Result<(), Misframed> {
    for value in headers.get_all(TRANSFER_ENCODING) {
        framing.encoding(value.as_bytes())?;
    }
    for value in headers.get_all(CONTENT_LENGTH) {
        framing.length(value.as_bytes())?;
    }
    Ok(())
}

/// A length (RFC 9110 §8.6), and no list of them.
pub fn digits(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::map;
    use super::*;

    fn length_of(version: Version, lines: &[(&str, &str)]) -> Result<Option<String>, Misframed> {
        let mut response = Response::new(());
        *response.version_mut() = version;
        *response.headers_mut() = map(lines);
        checked(&mut response)?;
        let mut lengths = response.headers().get_all(CONTENT_LENGTH).iter();
        let length = lengths.next().map(|length| length.to_str().unwrap().to_owned());
        assert!(lengths.next().is_none(), "{lines:?}");
        Ok(length)
    }

    #[test]
    fn an_answer_has_one_framing() {
        for (lines, length) in [
            (&[][..], None),
            (&[("transfer-encoding", "Chunked")], None),
            (&[("content-length", "7")], Some("7")),
            (&[("content-length", "7"), ("content-length", "7")], Some("7")),
            (&[("content-length", "7, 7"), ("content-length", "07")], Some("7")),
        ] {
            assert_eq!(length_of(Version::HTTP_11, lines), Ok(length.map(str::to_owned)), "{lines:?}");
        }
        for lines in [
            &[("transfer-encoding", "gzip, chunked")][..],
            &[("transfer-encoding", "chunked, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "identity")],
            &[("transfer-encoding", "")],
            &[("transfer-encoding", "chunked"), ("content-length", "7")],
            &[("content-length", "7"), ("content-length", "8")],
            &[("content-length", "7, 8")],
            &[("content-length", "7,")],
            &[("content-length", "")],
            &[("content-length", "+7")],
            &[("content-length", "0x7")],
            &[("content-length", "18446744073709551614")],
            &[("content-length", "99999999999999999999")],
        ] {
            assert_eq!(length_of(Version::HTTP_11, lines), Err(Misframed), "{lines:?}");
        }
        let chunked = &[("transfer-encoding", "chunked")];
        assert_eq!(length_of(Version::HTTP_10, chunked), Err(Misframed));
    }
}
