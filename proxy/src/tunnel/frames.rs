//! Where WebSocket frames end (RFC 6455 §5.2): lengths alone, so that a last frame can be put
//! between two others. Payloads are not read.

/// Follows one direction.
#[derive(Debug, Default, Clone, Copy)]
pub struct Frames {
    /// Of the payload that is under way.
    left: u64,
    /// Of a head that is not whole yet.
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: u8,
    has_closed: bool,
}

/// The low half of a frame's first byte.
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 8;

/// Two bytes, a length of up to eight, a mask of four.
const HEAD_BYTES_MAX: usize = 14;

impl Frames {
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while let Some(end) = self.advance_to_end(bytes) {
            bytes = &bytes[end..];
        }
    }

    /// To where the frame that is under way ends, or the next one; `None`: not in these bytes.
    pub fn advance_to_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.left == 0 {
                self.head[usize::from(self.head_bytes)] = bytes[at];
                self.head_bytes += 1;
                at += 1;
                let Some(length) = self.length() else { continue };
                self.has_closed |= self.head[0] & OPCODE == CLOSE;
                (self.left, self.head_bytes) = (length, 0);
            }
            let payload = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
            self.left -= payload as u64;
            at += payload;
            if self.is_between() {
                return Some(at);
            }
        }
        None
    }

    /// Whether another frame can follow here.
    pub fn is_between(&self) -> bool {
        self.left == 0 && self.head_bytes == 0
    }

    /// Whether a close frame has begun: no other frame may follow it (§5.5.1).
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Of the payload, once the head is whole.
    fn length(&self) -> Option<u64> {
        let head = &self.head[..usize::from(self.head_bytes)];
        let second = *head.get(1)?;
        let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
        let (length_bytes, short) = match second & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, u64::from(short)),
        };
        if head.len() < 2 + length_bytes + mask_bytes {
            return None;
        }
        let long = head[2..2 + length_bytes].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
        Some(if length_bytes == 0 { short } else { long })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(payload: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match payload {
            0..126 => frame.push(mask | payload as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend(if is_masked { vec![1, 2, 3, 4] } else { Vec::new() });
        frame.resize(frame.len() + payload, 7);
        frame
    }

    proptest! {
        /// However the bytes are cut, frames end where they end and nowhere else.
        #[test]
        fn ends_of_frames_are_found_however_the_bytes_come(
            payloads in prop::collection::vec((prop_oneof![0usize..4, 120usize..130, 65530usize..65540], any::<bool>()), 1..5),
            cuts in prop::collection::vec(1usize..40_000, 1..40),
        ) {
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for (payload, is_masked) in payloads {
                bytes.extend(frame(payload, is_masked));
                ends.push(bytes.len());
            }
            let (mut frames, mut at) = (Frames::default(), 0);
            for cut in cuts.into_iter().cycle() {
                prop_assert_eq!(frames.is_between(), ends.contains(&at), "at {} of {:?}", at, ends);
                let next = (at + cut).min(bytes.len());
                if next == at {
                    break;
                }
                frames.advance(&bytes[at..next]);
                at = next;
            }
        }
    }

    #[test]
    fn a_close_frame_is_one_by_its_opcode() {
        let table: [(&[u8], bool); 5] = [
            (b"\x81\x02\x88\x00", false),
            (b"\x88\x00", true),
            (b"\x81\x01\x88\x88\x80\x01\x02\x03\x04", true),
            (b"\x89\x00\x8a\x00", false),
            (b"\x01\x01a\x88\x02\x03\xe8\x80\x00", true),
        ];
        for (bytes, expect) in table {
            let mut frames = Frames::default();
            bytes.iter().for_each(|byte| frames.advance(&[*byte]));
            assert_eq!((frames.has_closed(), frames.is_between()), (expect, true), "{bytes:?}");
        }
    }

    #[test]
    fn a_length_that_nobody_sends_is_no_overflow() {
        let mut frames = Frames::default();
        frames.advance(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0]);
        assert!(!frames.is_between());
    }
}
