//! HTTP/2 frame by frame, for what no client library would send.

use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http2_client::IN_TIME;
use crate::play::Play;

/// One frame (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Header fields, each written out (RFC 7541 §6.2.2), so that anything can be said.
pub fn fields(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in lines {
        block.push(0);
        for text in [name, value] {
            // 7 bits of length, and what is more in further ones.
            match text.len() {
                short @ 0..127 => block.push(short as u8),
                long => {
                    block.push(127);
                    let mut rest = long - 127;
                    while rest >= 128 {
                        block.push((rest % 128) as u8 | 128);
                        rest /= 128;
                    }
                    block.push(rest as u8);
                }
            }
            block.extend(text.as_bytes());
        }
    }
    block
}

pub struct Frames {
    pub stream: TcpStream,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Status(u16),
    Reset(Reason),
    /// The connection's end, with its reason if it gave one.
    End(Option<Reason>),
}

impl Frames {
    pub async fn connect(play: &Play) -> Self {
        let mut stream = TcpStream::connect(play.proxy.address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut frames = Self { stream };
        frames.send(&frame(SETTINGS, 0, 0, &[])).await;
        frames
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        let _closed_already = self.stream.write_all(bytes).await;
    }

    /// The first answer: a status, a reset or an end.
    pub async fn hears(&mut self) -> Heard {
        let mut decoder = StatusDecoder;
        let mut why = None;
        loop {
            let mut head = [0; 9];
            let read = timeout(IN_TIME, self.stream.read_exact(&mut head)).await.expect("an answer in time");
            if read.is_err() {
                return Heard::End(why);
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if self.stream.read_exact(&mut payload).await.is_err() {
                return Heard::End(why);
            }
            let code = |at: usize| Reason::from(u32::from_be_bytes(payload[at..at + 4].try_into().unwrap()));
            match head[3] {
                HEADERS => return Heard::Status(decoder.status(&payload)),
                RST_STREAM => return Heard::Reset(code(0)),
                GOAWAY => why = Some(code(4)),
                _ => {}
            }
        }
    }
}

/// Of an answer's fields, `:status` comes first, from the static table (RFC 7541, appendix A) or
/// with a value of its own.
struct StatusDecoder;

impl StatusDecoder {
    fn status(&mut self, block: &[u8]) -> u16 {
        let table = [200, 204, 206, 304, 400, 404, 500];
        // A change of the dynamic table's size may come before it.
        let block = if block[0] >> 5 == 1 { &block[1..] } else { block };
        match block[0] {
            indexed if indexed & 128 != 0 => table[usize::from(indexed & 127) - 8],
            _ => {
                let length = usize::from(block[1] & 127);
                let digits = &block[2..2 + length];
                if block[1] & 128 == 0 {
                    std::str::from_utf8(digits).unwrap().parse().unwrap()
                } else {
                    huffman(digits)
                }
            }
        }
    }
}

/// Digits alone (RFC 7541, appendix B): 0, 1 and 2 have five bits, the others six.
fn huffman(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0_u16, |number, bit| number * 2 + u16::from(*bit));
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let short = number(&bits[at..at + 5]);
        if short <= 2 {
            (at, status) = (at + 5, status * 10 + short);
        } else {
            (at, status) = (at + 6, status * 10 + number(&bits[at..at + 6]) - 0x19 + 3);
        }
    }
    status
}
