//! The end of a WebSocket that its client is told of: what it is told, and after which frame.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::net::tcp::ReadHalf;

use crate::frames::Frames;

/// What a WebSocket's client is told by the status of a last frame (RFC 6455 §7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goodbye {
    /// "Service restart" (IANA's WebSocket close code registry): it may come back at once, and reaches another proxy or drone.
    ComeBack,
    /// Of our own (§7.4.2), as the HTTP status 410 is: its session has ended, and another one has another URL.
    Ended,
    /// Likewise, as 403: what it came in with was taken back.
    Revoked,
}

impl Goodbye {
    /// From a server, so without a mask (§5.1): FIN and opcode 8, two bytes of status (§5.5.1).
    pub fn frame(self) -> [u8; 4] {
        let status: u16 = match self {
            Goodbye::ComeBack => 1012,
            Goodbye::Ended => 4410,
            Goodbye::Revoked => 4403,
        };
        let [high, low] = status.to_be_bytes();
        [0x88, 2, high, low]
    }
}

/// What goes to a WebSocket's client, up to the end of a frame after which it is told to come back.
pub struct Leaving<F> {
    frames: Frames,
    turn: F,
    due: Option<Goodbye>,
}

impl<F: Future<Output = Goodbye> + Unpin> Leaving<F> {
    /// `turn` returns when it is to leave.
    pub fn at(turn: F) -> Self {
        Self { frames: Frames::default(), turn, due: None }
    }

    /// `Some`: it has left, and this is to be said.
    pub async fn readable(&mut self, from: &ReadHalf<'_>) -> io::Result<Option<Goodbye>> {
        let mut readable = pin!(from.readable());
        poll_fn(|cx| {
            if self.due.is_none()
                && let Poll::Ready(goodbye) = Pin::new(&mut self.turn).poll(cx)
            {
                self.due = Some(goodbye);
            }
            if self.has_left() {
                return Poll::Ready(Ok(self.due));
            }
            readable.as_mut().poll(cx).map(|readable| readable.map(|()| None))
        })
        .await
    }

    /// Of these bytes, those that still go out.
    pub fn before_leaving<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.due.is_none() {
            self.frames.advance(bytes);
            return bytes;
        }
        let end = self.frames.advance_to_end(bytes).unwrap_or(bytes.len());
        &bytes[..end]
    }

    pub fn has_left(&self) -> bool {
        self.due.is_some() && self.frames.is_between()
    }
}
