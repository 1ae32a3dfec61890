//! A container's output: as a stream, or its end. Not its business: keeping it.

use std::collections::VecDeque;

use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::answer::{CALL_DEADLINE, meaning};
use super::engine::Engine;
use crate::runtime::{LogQuery, RuntimeError};

/// Lines that are read for the last bytes, at most: an empty line has one byte.
const TAIL_LINES: u32 = 1000;

pub type Output = BoxStream<'static, Result<Bytes, RuntimeError>>;

pub async fn stream(engine: &Engine, container: &str, query: LogQuery) -> Result<Output, RuntimeError> {
    // The stream itself would tell only at its first item, which a quiet container never gives.
    if super::container::inspect(engine, container).await?.is_none() {
        return Err(RuntimeError::Absent);
    }
    Ok(open(engine, container, query))
}

/// The last bytes of both streams. What the application wrote in another encoding is replaced, never an error.
pub async fn tail(engine: &Engine, container: &str, bytes_max: usize) -> Result<String, RuntimeError> {
    let read = async {
        let query = LogQuery { tail: Some(TAIL_LINES), follow: false, timestamps: false };
        let mut output = open(engine, container, query);
        let mut last = VecDeque::new();
        while let Some(chunk) = output.next().await {
            last.extend(chunk?);
            let excess = last.len().saturating_sub(bytes_max);
            last.drain(..excess);
        }
        Ok(text_of(last.make_contiguous()))
    };
    match tokio::time::timeout(CALL_DEADLINE, read).await {
        Ok(outcome) => outcome,
        Err(_) => Err(RuntimeError::Engine("the output does not end".to_owned())),
    }
}

fn open(engine: &Engine, container: &str, query: LogQuery) -> Output {
    let LogQuery { tail, follow, timestamps } = query;
    let tail = tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let options = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .follow(follow)
        .tail(&tail)
        .timestamps(timestamps)
        .build();
    let parts = engine.docker().logs(container, Some(options));
    let mut is_within_a_line = false;
    let parts = parts.map(move |part| match part {
        Ok(part) if timestamps => Ok(one_time_a_line(part.into_bytes(), &mut is_within_a_line)),
        Ok(part) => Ok(part.into_bytes()),
        Err(error) => Err(meaning(&error)),
    });
    parts.boxed()
}

/// The engine gives a long line in parts of 16 KiB, each with a time before it.
fn one_time_a_line(part: Bytes, is_within_a_line: &mut bool) -> Bytes {
    let is_first = !std::mem::replace(is_within_a_line, !part.ends_with(b"\n"));
    match part.iter().position(|byte| *byte == b' ').filter(|_| !is_first) {
        Some(end) => part.slice(end + 1..),
        None => part,
    }
}

/// Cut in the middle of a character, the rest of it is left out. A NUL, which no database takes as text, is replaced.
fn text_of(bytes: &[u8]) -> String {
    let broken = bytes.iter().take(3).take_while(|byte| (0x80..0xC0).contains(*byte)).count();
    String::from_utf8_lossy(bytes.get(broken..).unwrap_or_default()).replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_has_one_time() {
        let mut is_within_a_line = false;
        let whole: Vec<u8> = ["t1 a b", "t2 c\n", "t3 d\n", "t4 e"]
            .into_iter()
            .flat_map(|part| one_time_a_line(Bytes::from(part), &mut is_within_a_line))
            .collect();
        assert_eq!(whole, b"t1 a bc\nt3 d\nt4 e");
    }

    #[test]
    fn a_cut_character_is_left_out() {
        let text = "aé€";
        assert_eq!(text_of(text.as_bytes()), text);
        assert_eq!(text_of(&text.as_bytes()[2..]), "€");
        assert_eq!(text_of(&text.as_bytes()[4..]), "");
        assert_eq!(text_of(b"\xff\xfex"), "\u{fffd}\u{fffd}x");
        assert_eq!(text_of(b""), "");
        assert_eq!(text_of(b"a\0b"), "a\u{fffd}b");
    }
}
