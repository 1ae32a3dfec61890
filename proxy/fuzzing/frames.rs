//! Ends of WebSocket frames: the same however the bytes are cut, and those that a plain reader of
//! RFC 6455 finds.

use crate::tunnel::frames::Frames;

/// `bytes`: how many lengths of pieces follow, those lengths, and what one side of a WebSocket
/// says.
pub fn frames(bytes: &[u8]) {
    let (count, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let (lengths, bytes) = rest.split_at(usize::from(count % 16).min(rest.len()));
    let expect = ends(bytes);
    let lengths: Vec<usize> = lengths.iter().map(|length| usize::from(*length)).collect();
    assert_eq!(found(bytes, &[bytes.len()]), expect, "in one piece");
    assert_eq!(found(bytes, &[1]), expect, "byte by byte");
    assert_eq!(found(bytes, &lengths), expect, "in pieces of {lengths:?}");

    let mut followed = Frames::default();
    assert!(followed.is_between(), "before the first frame");
    followed.advance(bytes);
    assert_eq!(followed.is_between(), expect.last().map_or(bytes.is_empty(), |end| *end == bytes.len()));
}

/// Where frames end, in pieces of these lengths and then the rest.
fn found(bytes: &[u8], lengths: &[usize]) -> Vec<usize> {
    let (mut frames, mut ends, mut at) = (Frames::default(), Vec::new(), 0);
    let mut lengths = lengths.iter().copied().cycle().take(bytes.len());
    while at < bytes.len() {
        let length = lengths.next().unwrap_or(bytes.len()).min(bytes.len() - at);
        let (mut piece, stop) = (&bytes[at..at + length], at + length);
        while let Some(end) = frames.advance_to_end(piece) {
            assert!(end > 0 && end <= piece.len(), "an end at {end} of {}", piece.len());
            assert!(frames.is_between(), "an end that is none");
            at += end;
            piece = &piece[end..];
            ends.push(at);
        }
        at = stop;
    }
    ends
}

/// The plain reader (§5.2): a head, its length, a mask where there is one, the payload.
fn ends(bytes: &[u8]) -> Vec<usize> {
    let (mut ends, mut at) = (Vec::new(), 0);
    while let Some(end) = end_of_frame(&bytes[at..]) {
        at += end;
        ends.push(at);
    }
    ends
}

fn end_of_frame(bytes: &[u8]) -> Option<usize> {
    let [_, second, rest @ ..] = bytes else { return None };
    let (length, length_bytes) = match (second % 128, rest) {
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 2),
        (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 8),
        (126 | 127, _) => return None,
        (short, _) => (u64::from(short), 0),
    };
    let mask_bytes = if *second >= 128 { 4 } else { 0 };
    let end = 2 + length_bytes + mask_bytes + u128::from(length);
    usize::try_from(end).ok().filter(|end| *end <= bytes.len())
}
