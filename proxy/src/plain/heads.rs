//! The heads that a backend sends before its answer's body, in whatever pieces they come. Pure.
//!
//! Each byte is looked at once while a head grows: it is parsed when an empty line has come, so
//! that one that comes byte by byte costs no more than one that comes whole.

use bytes::Bytes;

use super::answer::{self, For, Read, ResponseHead};
use super::chunks::Malformed;
use super::sockets::Received;
use crate::problem::Problem;
use crate::upstream::HEAD_BYTES_MAX;
use crate::upstream::interim::Interim;

/// Of one answer, and of the interim answers before it.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// The start of a head.
    early: Vec<u8>,
    /// Bytes of empty lines before it, which a parser passes over.
    blank: usize,
    interim: Interim,
    #[cfg(test)]
    parses: u32,
}

/// An answer's head, and the bytes that it came in.
pub struct Answered {
    pub head: ResponseHead,
    pub came: Received,
}

impl HeadReader {
    /// The answer, if its head is there with these bytes. The head for its client is in `text`.
    pub fn take(
        &mut self,
        came: Received,
        wanted: &For<'_>,
        text: &mut Vec<u8>,
    ) -> Result<Option<Answered>, Problem> {
        let Some(came) = self.join(came)? else { return Ok(None) };
        let mut passed = 0;
        loop {
            #[cfg(test)]
            {
                self.parses += 1;
            }
            let bytes = &came.bytes()[passed..];
            match answer::read(bytes, wanted, text)? {
                Read::Answer(mut head) => {
                    head.length += passed;
                    return Ok(Some(Answered { head, came }));
                }
                Read::Interim(length) if self.interim.takes(length) => passed += length,
                Read::Interim(_) => return Err(Problem::TooManyInterim),
                Read::Partial => {
                    self.keep(bytes)?;
                    return Ok(None);
                }
                Read::Switching => return Err(Problem::UnaskedUpgrade),
            }
        }
    }

    /// These bytes with those before them, if they may be a whole head.
    fn join(&mut self, came: Received) -> Result<Option<Received>, Malformed> {
        if self.early.is_empty() {
            return Ok(Some(came));
        }
        let before = self.early.len();
        self.early.extend_from_slice(came.bytes());
        if has_empty_line(&self.early, before) {
            return Ok(Some(Received::Left(Bytes::from(std::mem::take(&mut self.early)))));
        }
        self.is_bounded()?;
        Ok(None)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let start = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(bytes.len());
        // A return may be the first half of a line's end.
        let start = if start == bytes.len() && bytes.ends_with(b"\r") { start - 1 } else { start };
        self.blank += start;
        self.early.extend_from_slice(&bytes[start..]);
        self.is_bounded()
    }

    fn is_bounded(&self) -> Result<(), Malformed> {
        if self.blank + self.early.len() < HEAD_BYTES_MAX { Ok(()) } else { Err(Malformed) }
    }
}

/// Whether a line that ends behind the first `before` bytes is empty. Those were looked at before.
fn has_empty_line(bytes: &[u8], before: usize) -> bool {
    let ends = |rest: &[u8]| rest.starts_with(b"\n\n") || rest.starts_with(b"\n\r\n");
    (before.saturating_sub(2)..bytes.len()).any(|at| ends(&bytes[at..]))
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;
    use crate::headers::Served;

    static BACKEND: HeaderValue = HeaderValue::from_static("b-1");

    fn wanted() -> For<'static> {
        For { is_head: false, backend: &BACKEND, served: Served::Alone, closes: false }
    }

    /// What comes of these bytes in pieces of this size, and how often they were parsed.
    fn taken(bytes: &[u8], piece: usize) -> (Result<Option<usize>, Problem>, u32) {
        let (mut heads, mut text) = (HeadReader::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            let came = Received::Left(Bytes::copy_from_slice(piece));
            match heads.take(came, &wanted(), &mut text) {
                Ok(None) => {}
                answered => return (answered.map(|one| one.map(|one| one.head.length)), heads.parses),
            }
        }
        (Ok(None), heads.parses)
    }

    fn head_of(bytes: usize) -> Vec<u8> {
        let start = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4)).into_bytes()
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_parsed_once() {
        let head = head_of(60_000);
        for piece in [1, 2, 1000] {
            // And its first piece, which might be all of it.
            assert_eq!(taken(&head, piece), (Ok(Some(head.len())), 2), "{piece}");
        }
        assert_eq!(taken(&head, head.len()), (Ok(Some(head.len())), 1));
    }

    #[test]
    fn it_does_not_matter_in_what_pieces_heads_come() {
        for (bytes, expect) in [
            (&b"HTTP/1.1 200 OK\n\nabc"[..], Ok(Some(17))),
            (b"\r\n\nHTTP/1.1 200 OK\r\n\r\n", Ok(Some(22))),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
                Ok(Some(68)),
            ),
            (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Err(Problem::UnaskedUpgrade)),
            (b"HTTP/1.1 200 OK\r\na: b\r\n", Ok(None)),
            (b"nonsense\r\n\r\n", Err(Problem::BadAnswer)),
        ] {
            let text = String::from_utf8_lossy(bytes);
            for piece in 1..=bytes.len() {
                let (found, _) = taken(bytes, piece);
                // A part of the head may have gone before, and is not counted.
                let is_same = match (&found, &expect) {
                    (Ok(Some(length)), Ok(Some(all))) => length <= all,
                    (found, expect) => found == expect,
                };
                assert!(is_same, "{piece}: {found:?} of {text:?}");
            }
        }
    }

    #[test]
    fn a_head_is_bounded_in_whatever_pieces_it_comes() {
        for piece in [1, 1000, 16 * 1024, 100 * 1024] {
            assert!(matches!(taken(&head_of(HEAD_BYTES_MAX), piece), (Ok(Some(_)), _)), "{piece}");
            let larger = head_of(HEAD_BYTES_MAX + 1);
            assert_eq!(taken(&larger, piece).0, Err(Problem::BadAnswer), "{piece}");
            assert_eq!(taken(&vec![b'x'; 2 * HEAD_BYTES_MAX], piece).0, Err(Problem::BadAnswer), "{piece}");
        }
        let blank = b"\r\n".repeat(HEAD_BYTES_MAX);
        for piece in [1, 2, 1000] {
            let (found, parses) = taken(&blank, piece);
            assert_eq!(found, Err(Problem::BadAnswer), "{piece}");
            assert!(parses as usize <= HEAD_BYTES_MAX, "{piece}: {parses}");
        }
    }

    #[test]
    fn interim_answers_are_counted_in_pieces_too() {
        let many = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
        for piece in [1, 7, 4096] {
            assert_eq!(taken(&many, piece).0, Err(Problem::TooManyInterim), "{piece}");
        }
    }
}
