//! Interim answers (RFC 9110 §15.2): a backend may send a few before its answer, and no more.
//! Endless ones would be read for as long as a client waits, at the cost of every other client of
//! the same thread.
//!
//! The plain lane counts the heads that it reads. hyper passes them over: in HTTP/1.1 it tells a
//! listener of each, in HTTP/2 nothing at all, so there the frames are counted as they are read.
//! Either way the next read of the backend's connection fails.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Request};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::socket::Socket;
use crate::upstream::expect::Expectation;

/// Before one answer.
pub const ANSWERS_MAX: u32 = 16;
pub const BYTES_MAX: usize = 64 * 1024;

/// Those that have come before one answer.
#[derive(Debug, Default, Clone, Copy)]
pub struct Interim {
    answers: u32,
    bytes: usize,
}

impl Interim {
    /// One more, of so many bytes. False: it is too many, or too much.
    #[must_use]
    pub fn takes(&mut self, bytes: usize) -> bool {
        self.answers += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.answers <= ANSWERS_MAX && self.bytes <= BYTES_MAX
    }
}

/// Whether a backend's connection has had too many. Shared by the counters and the reader.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<AtomicBool>);

impl Watch {
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set_over(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Counts the interim answers to an HTTP/1.1 request. An `Expectation` that goes with
    /// the request hears it, too.
    pub fn listen<B>(&self, request: &mut Request<B>) {
        let (watch, interim) = (self.clone(), Mutex::new(Interim::default()));
        let expectation = request.extensions().get::<Expectation>().cloned();
        hyper::ext::on_informational(request, move |answer| {
            if let Some(expectation) = &expectation {
                expectation.hear(answer.status());
            }
            let mut interim = interim.lock();
            if !interim.takes(size(answer.headers())) {
                watch.set_over();
            }
        });
    }
}

/// Bytes of a head in HTTP/1.1: its first line and two line ends, and `: ` and a line end a field.
fn size(headers: &HeaderMap) -> usize {
    let lines = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    16 + lines.sum::<usize>()
}

/// A backend's socket, which is read until there were too many.
#[derive(Debug)]
pub struct Watched {
    socket: Socket,
    watch: Watch,
    /// Of HTTP/2.
    heads: Option<Box<FrameHeads>>,
}

impl Watched {
    pub fn http_1(socket: Socket, watch: Watch) -> Self {
        Self { socket, watch, heads: None }
    }

    pub fn http_2(socket: Socket, watch: Watch) -> Self {
        Self { socket, watch, heads: Some(Box::default()) }
    }

    pub fn into_inner(self) -> Socket {
        self.socket
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if !self.watch.is_over() {
            ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
            let Some(heads) = &mut self.heads else { return Poll::Ready(Ok(())) };
            if heads.pass(&buffer.filled()[before..]) {
                return Poll::Ready(Ok(()));
            }
            self.watch.set_over();
        }
        Poll::Ready(Err(io::Error::other("too many interim answers")))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Of a frame (RFC 9113 §4.1).
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
/// Streams whose heads are remembered: twice as many as are open at a time.
const STREAMS_MAX: usize = 256;

/// Where heads stand among the frames of an HTTP/2 server. A head that another head follows, and
/// not the stream's end, was an interim one: trailers always end their stream (RFC 9113 §8.1).
#[derive(Debug, Default)]
pub struct FrameHeads {
    header: [u8; FRAME_HEADER_BYTES],
    header_bytes: usize,
    payload_left: usize,
    streams: BTreeMap<u32, Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    interim: Interim,
    /// Of the last head.
    head_bytes: usize,
}

impl FrameHeads {
    /// False: of a stream, there were too many.
    #[must_use]
    pub fn pass(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let payload = self.payload_left.min(bytes.len());
            self.payload_left -= payload;
            bytes = &bytes[payload..];
            let header = (FRAME_HEADER_BYTES - self.header_bytes).min(bytes.len());
            self.header[self.header_bytes..][..header].copy_from_slice(&bytes[..header]);
            self.header_bytes += header;
            bytes = &bytes[header..];
            if self.header_bytes == FRAME_HEADER_BYTES {
                self.header_bytes = 0;
                if !self.frame() {
                    return false;
                }
            }
        }
        true
    }

    fn frame(&mut self) -> bool {
        let [high, middle, low, kind, flags, id @ ..] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.payload_left = length;
        // The highest bit means nothing.
        let id = u32::from_be_bytes(id) & 0x7fff_ffff;
        match kind {
            HEADERS if flags & END_STREAM == 0 => match self.streams.get_mut(&id) {
                Some(stream) => {
                    let before = std::mem::replace(&mut stream.head_bytes, length);
                    return stream.interim.takes(before);
                }
                None => {
                    if self.streams.len() >= STREAMS_MAX {
                        self.streams.pop_first();
                    }
                    self.streams.insert(id, Stream { head_bytes: length, ..Stream::default() });
                }
            },
            HEADERS | RST_STREAM => {
                self.streams.remove(&id);
            }
            CONTINUATION => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.head_bytes = stream.head_bytes.saturating_add(length);
                }
            }
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_few_are_taken() {
        let taken = |bytes| {
            let mut interim = Interim::default();
            (0..100).take_while(|_| interim.takes(bytes)).count()
        };
        assert_eq!(taken(25), 16);
        assert_eq!(taken(4096), 16);
        assert_eq!(taken(4097), 15);
        assert_eq!(taken(BYTES_MAX), 1);
        assert_eq!(taken(BYTES_MAX + 1), 0);
    }

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut frame = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.resize(FRAME_HEADER_BYTES + length, HEADERS);
        frame
    }

    /// Frames as kind, flags, stream and length, read in pieces of so many bytes.
    fn passes(frames: &[(u8, u8, u32, usize)], piece: usize) -> bool {
        let bytes: Vec<u8> =
            frames.iter().flat_map(|&(kind, flags, id, len)| frame(kind, flags, id, len)).collect();
        let mut heads = FrameHeads::default();
        bytes.chunks(piece).all(|piece| heads.pass(piece))
    }

    #[test]
    fn heads_of_a_stream_are_counted() {
        let head = |id| (HEADERS, 4, id, 10);
        let data = |id| (0, 0, id, 100);
        let end = |id| (HEADERS, 4 | END_STREAM, id, 10);
        let times = |frame, count| vec![frame; count];
        let table = [
            (times(head(1), 17), true),
            (times(head(1), 18), false),
            ([times(head(1), 17), vec![data(1), end(1)]].concat(), true),
            // An answer without an end is one of many.
            ((0..1000).map(|id| head(2 * id + 1)).collect(), true),
            ((0..1000).flat_map(|id| [head(2 * id + 1), data(2 * id + 1), end(2 * id + 1)]).collect(), true),
            ([times(head(1), 17), vec![end(1)], times(head(1), 17)].concat(), true),
            ([times(head(1), 17), vec![(RST_STREAM, 0, 1, 4)], times(head(1), 17)].concat(), true),
            ([times(head(1), 17), times(head(3), 17)].concat(), true),
            ([times(head(1), 17), times(head(3), 18)].concat(), false),
            (vec![(HEADERS, 0, 1, 10), (CONTINUATION, 4, 1, BYTES_MAX), head(1)], false),
            (vec![(HEADERS, 0, 1, 10), (CONTINUATION, 4, 1, BYTES_MAX), end(1)], true),
            (times((HEADERS, 4, 1, 8192), 9), true),
            (times((HEADERS, 4, 1, 8192), 10), false),
            (vec![(6, 0, 0, 8), (4, 0, 0, 0), (4, 1, 0, 0)], true),
        ];
        for (frames, expect) in table {
            for piece in [1, 7, 9, 10, 1 << 20] {
                assert_eq!(passes(&frames, piece), expect, "{piece}: {:?}", &frames[..frames.len().min(20)]);
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), piece in 1_usize..50) {
            let mut heads = FrameHeads::default();
            let _either = bytes.chunks(piece).all(|piece| heads.pass(piece));
        }
    }
}
