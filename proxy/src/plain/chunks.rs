//! A body as its backend frames it, and as its client gets it. Pure: the bytes to write come out.

use crate::headers::framing::Misframed;
use crate::problem::Problem;
use crate::upstream::HEAD_BYTES_MAX;

// The bounds are hyper's, so that both lanes end a body at the same byte or refuse it.
/// Lines of trailers; in bytes, they are bounded as a head is.
const TRAILERS_MAX: usize = 100;
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Extensions of all chunks of a body, which no one reads.
const EXTENSION_BYTES_MAX: u32 = 16 * 1024;

/// The part of a body that is still to come.
#[derive(Debug)]
pub enum Body {
    None,
    Length(u64),
    Chunks(Chunks),
    /// As much as comes before the end of the connection.
    ToTheEnd,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    More,
    /// With so many bytes that are not the body's.
    Done {
        beyond: usize,
    },
}

/// It does not keep to RFC 9112 §7.1, or ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl From<Misframed> for Malformed {
    fn from(Misframed: Misframed) -> Self {
        Malformed
    }
}

impl From<Malformed> for Problem {
    fn from(Malformed: Malformed) -> Self {
        Problem::BadAnswer
    }
}

/// A chunked body (RFC 9112 §7.1).
#[derive(Debug, Default)]
pub struct Chunks {
    at: At,
    /// Of the chunk that is being read.
    left: u64,
    /// The chunk's size has a digit at least.
    has_size: bool,
    extension_bytes: u32,
    trailers: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    /// White space behind the size.
    Space,
    Extension,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    Trailers,
}

impl Body {
    /// Takes all of these bytes, if they go on as they came and there is more to come.
    pub fn pass(&mut self, bytes: &[u8]) -> bool {
        match self {
            Body::Length(left) if (bytes.len() as u64) < *left => {
                *left -= bytes.len() as u64;
                true
            }
            _ => false,
        }
    }

    /// Takes the next bytes, and writes those for the client.
    pub fn take(&mut self, bytes: &[u8], text: &mut Vec<u8>) -> Result<Progress, Malformed> {
        match self {
            Body::None => Ok(Progress::Done { beyond: bytes.len() }),
            Body::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                text.extend_from_slice(&bytes[..taken]);
                *left -= taken as u64;
                let done = Progress::Done { beyond: bytes.len() - taken };
                Ok(if *left == 0 { done } else { Progress::More })
            }
            Body::Chunks(chunks) => chunks.take(bytes, text),
            Body::ToTheEnd => {
                write_chunk(text, bytes);
                Ok(Progress::More)
            }
        }
    }

    /// Its connection has ended.
    pub fn end(&self, text: &mut Vec<u8>) -> Result<(), Malformed> {
        match self {
            Body::None => Ok(()),
            Body::ToTheEnd => {
                text.extend_from_slice(LAST_CHUNK);
                Ok(())
            }
            Body::Length(_) | Body::Chunks(_) => Err(Malformed),
        }
    }
}

fn write_chunk(text: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        text.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        text.extend_from_slice(data);
        text.extend_from_slice(b"\r\n");
    }
}

impl Chunks {
    fn take(&mut self, mut bytes: &[u8], text: &mut Vec<u8>) -> Result<Progress, Malformed> {
        while let Some((first, rest)) = bytes.split_first() {
            match self.at {
                At::Data => {
                    let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                    write_chunk(text, &bytes[..taken]);
                    self.left -= taken as u64;
                    if self.left == 0 {
                        self.at = At::DataReturn;
                    }
                    bytes = &bytes[taken..];
                    continue;
                }
                At::Trailers => {
                    if self.ends_with(*first)? {
                        text.extend_from_slice(LAST_CHUNK);
                        return Ok(Progress::Done { beyond: rest.len() });
                    }
                }
                _ => self.framing(*first)?,
            }
            bytes = rest;
        }
        Ok(Progress::More)
    }

    fn framing(&mut self, byte: u8) -> Result<(), Malformed> {
        let digit = char::from(byte).to_digit(16).filter(|_| self.at == At::Size);
        if let Some(digit) = digit {
            self.left = self.left.checked_mul(16).ok_or(Malformed)? + u64::from(digit);
            self.has_size = true;
            return Ok(());
        }
        self.at = match (self.at, byte) {
            (At::Size, _) if !self.has_size => return Err(Malformed),
            (At::Size | At::Space | At::Extension, b'\r') => At::SizeEnd,
            (At::Size | At::Space, b' ' | b'\t') => At::Space,
            (At::Size | At::Space, b';') => At::Extension,
            (At::Extension, b'\n') => return Err(Malformed),
            (At::Extension, _) => {
                self.extension_bytes += 1;
                if self.extension_bytes >= EXTENSION_BYTES_MAX {
                    return Err(Malformed);
                }
                At::Extension
            }
            (At::SizeEnd, b'\n') if self.left == 0 => At::Trailers,
            (At::SizeEnd, b'\n') => At::Data,
            (At::DataReturn, b'\r') => At::DataEnd,
            (At::DataEnd, b'\n') => At::Size,
            _ => return Err(Malformed),
        };
        self.has_size = false;
        Ok(())
    }

    /// One byte more of the trailers, and whether it ends them. They go no further: no plain
    /// request takes any (RFC 9110 §6.5.1).
    fn ends_with(&mut self, byte: u8) -> Result<bool, Malformed> {
        let is_bare_return = self.trailers.ends_with(b"\r") && byte != b'\n';
        if is_bare_return || self.trailers.len() >= HEAD_BYTES_MAX {
            return Err(Malformed);
        }
        self.trailers.push(byte);
        if self.trailers != b"\r\n" && !self.trailers.ends_with(b"\r\n\r\n") {
            return Ok(false);
        }
        let mut lines = [httparse::EMPTY_HEADER; TRAILERS_MAX];
        match httparse::parse_headers(&self.trailers, &mut lines) {
            Ok(httparse::Status::Complete(_)) => Ok(true),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunks() -> Body {
        Body::Chunks(Chunks::default())
    }

    fn taken(mut body: Body, parts: &[&[u8]]) -> Result<(String, Progress), Malformed> {
        let (mut text, mut progress) = (Vec::new(), Progress::More);
        for part in parts {
            progress = body.take(part, &mut text)?;
        }
        Ok((String::from_utf8_lossy(&text).into_owned(), progress))
    }

    #[test]
    fn chunks_are_made_anew() {
        let done = Progress::Done { beyond: 0 };
        for (sent, got, progress) in [
            ("0\r\n\r\n", "0\r\n\r\n", done),
            ("3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", done),
            ("003;a=\"b\"\r\nabc\r\n0 \r\n\r\nmore", "3\r\nabc\r\n0\r\n\r\n", Progress::Done { beyond: 4 }),
            ("1\r\na\r\n0\r\nX-Sum: 1\r\nX-Verified-User: r\r\n\r\n", "1\r\na\r\n0\r\n\r\n", done),
            ("A\r\nabc", "3\r\nabc\r\n", Progress::More),
            ("0000000000000000001 \t;a\r\na\r\n0\r\n\r\n", "1\r\na\r\n0\r\n\r\n", done),
        ] {
            assert_eq!(taken(chunks(), &[sent.as_bytes()]), Ok((got.to_owned(), progress)), "{sent:?}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_not_guessed_at() {
        for sent in [
            "\r\n",
            ";a\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\na",
            "0x1\r\na",
            "1\na",
            "1\r\r\na",
            "1\r\nab",
            "1\r\na\n0\r\n\r\n",
            "1;a\na",
            "10000000000000000\r\n",
            "1 2\r\n",
            "1 a\r\n",
            "0\r\n\rx",
            "0\r\nbad name: x\r\n\r\n",
        ] {
            assert_eq!(taken(chunks(), &[sent.as_bytes(), b"\r\n\r\n"]), Err(Malformed), "{sent:?}");
        }
        for long in [format!("2;{}\r\nok\r\n", "x".repeat(17_000)), format!("0\r\n{}", "x".repeat(70_000))] {
            assert_eq!(taken(chunks(), &[long.as_bytes()]), Err(Malformed));
        }
        assert_eq!(chunks().end(&mut Vec::new()), Err(Malformed));
        assert_eq!(Body::Length(1).end(&mut Vec::new()), Err(Malformed));
    }

    #[test]
    fn lengths_and_ends_end_bodies() {
        assert_eq!(
            taken(Body::Length(3), &[b"ab", b"cd"]),
            Ok(("abc".to_owned(), Progress::Done { beyond: 1 }))
        );
        assert_eq!(
            taken(Body::ToTheEnd, &[b"ab", b"", b"c"]),
            Ok(("2\r\nab\r\n1\r\nc\r\n".to_owned(), Progress::More))
        );
        let mut text = Vec::new();
        assert_eq!(Body::ToTheEnd.end(&mut text), Ok(()));
        assert_eq!(text, b"0\r\n\r\n");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_they_come(
            data in prop::collection::vec("[a-z]{1,20}", 0..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut sent: String = data.iter().map(|data| format!("{:X}\r\n{data}\r\n", data.len())).collect();
            sent += "0\r\nx-a: b\r\n\r\n";
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(sent.len())).collect();
            at.extend([0, sent.len()]);
            at.sort_unstable();
            let parts: Vec<&[u8]> = at.windows(2).map(|pair| &sent.as_bytes()[pair[0]..pair[1]]).collect();
            let (text, progress) = taken(chunks(), &parts).unwrap();
            prop_assert_eq!(progress, Progress::Done { beyond: 0 });
            // Read once more, it is the same in one piece.
            let mut data_again = String::new();
            let mut rest = text.as_str();
            while let Some((size, after)) = rest.split_once("\r\n") {
                let size = usize::from_str_radix(size, 16).unwrap();
                if size == 0 {
                    prop_assert_eq!(after, "\r\n");
                    break;
                }
                data_again += &after[..size];
                rest = &after[size + 2..];
            }
            prop_assert_eq!(data_again, data.concat());
        }
    }
}
