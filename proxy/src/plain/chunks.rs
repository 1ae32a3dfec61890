//! A body as its backend frames it, and as its client gets it. Pure: what to write comes out as bytes.

/// All trailers of a body.
const TRAILER_BYTES_MAX: usize = 16 * 1024;
const TRAILERS_MAX: usize = 64;
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Of a chunk's size, in digits: more than any file has.
const DIGITS_MAX: u32 = 15;
/// Of a chunk's extensions, which nobody reads.
const EXTENSION_BYTES_MAX: u32 = 4 * 1024;

/// What is still to come.
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

/// A chunked body (RFC 9112 §7.1).
#[derive(Debug, Default)]
pub struct Chunks {
    at: At,
    /// Of the chunk that is being read.
    left: u64,
    /// How many of what is counted where it stands.
    count: u32,
    trailers: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Size,
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

    /// Takes what has come, and writes what the client gets of it.
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
                    self.trailers.push(*first);
                    if self.has_all_trailers()? {
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
        self.count += 1;
        let digit = char::from(byte).to_digit(16).filter(|_| self.at == At::Size);
        if let Some(digit) = digit {
            self.left = self.left * 16 + u64::from(digit);
            return if self.count > DIGITS_MAX { Err(Malformed) } else { Ok(()) };
        }
        let next = match (self.at, byte) {
            // A size has a digit at least.
            (At::Size, _) if self.count == 1 => return Err(Malformed),
            (At::Size | At::Extension, b'\r') => At::SizeEnd,
            (At::Size, b';' | b' ' | b'\t') => At::Extension,
            (At::Extension, b'\n') => return Err(Malformed),
            (At::Extension, _) if self.count <= EXTENSION_BYTES_MAX => return Ok(()),
            (At::SizeEnd, b'\n') if self.left == 0 => At::Trailers,
            (At::SizeEnd, b'\n') => At::Data,
            (At::DataReturn, b'\r') => At::DataEnd,
            (At::DataEnd, b'\n') => At::Size,
            _ => return Err(Malformed),
        };
        (self.at, self.count) = (next, 0);
        Ok(())
    }

    /// Whether the empty line behind them has come. They go no further: no plain request takes any (RFC 9110 §6.5.1).
    fn has_all_trailers(&self) -> Result<bool, Malformed> {
        if self.trailers.len() > TRAILER_BYTES_MAX {
            return Err(Malformed);
        }
        if self.trailers != b"\r\n" && !self.trailers.ends_with(b"\r\n\r\n") {
            return Ok(false);
        }
        let mut lines = [httparse::EMPTY_HEADER; TRAILERS_MAX];
        match httparse::parse_headers(&self.trailers, &mut lines) {
            Ok(httparse::Status::Complete((length, _))) if length == self.trailers.len() => Ok(true),
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
            "1000000000000000\r\n",
            "0\r\n\nx",
            "0\r\nbad name: x\r\n\r\n",
        ] {
            assert_eq!(taken(chunks(), &[sent.as_bytes(), b"\r\n\r\n"]), Err(Malformed), "{sent:?}");
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
