//! A container's output: as a stream, or its end. Not its business: keeping it.

use std::collections::VecDeque;

use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use jetway_protocol::ids::SlotId;

use super::engine::{CALL_DEADLINE, Engine, meaning};
use super::{container, names};
use crate::runtime::RuntimeError;

/// Lines that are read for the last bytes, at most: an empty line has one byte.
const TAIL_LINES: u32 = 1000;

pub type Output = BoxStream<'static, Result<Bytes, RuntimeError>>;

pub async fn stream(
    engine: &Engine,
    slot: SlotId,
    tail: Option<u32>,
    follow: bool,
) -> Result<Output, RuntimeError> {
    // The stream itself would tell only at its first item, which a quiet container never gives.
    if container::inspect(engine, &names::container(slot)).await?.is_none() {
        return Err(RuntimeError::Absent);
    }
    Ok(open(engine, slot, tail, follow))
}

/// The last bytes of both streams. What the application wrote in another encoding is replaced, never an error.
pub async fn tail(engine: &Engine, slot: SlotId, bytes_max: usize) -> Result<String, RuntimeError> {
    let read = async {
        let mut output = open(engine, slot, Some(TAIL_LINES), false);
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

fn open(engine: &Engine, slot: SlotId, tail: Option<u32>, follow: bool) -> Output {
    let tail = tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).follow(follow).tail(&tail).build();
    let lines = engine.docker().logs(&names::container(slot), Some(options));
    lines.map(|line| line.map(|line| line.into_bytes()).map_err(|error| meaning(&error))).boxed()
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
