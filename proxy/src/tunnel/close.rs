//! The direction to a WebSocket's client, up to its end: after which frame the proxy may say a last
//! word, and whether an application's end is one of its session.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::tcp::ReadHalf;
use tokio::time::{Sleep, sleep, timeout};

use crate::attach::Gate;
use crate::io::buffers::read_now;
use crate::tunnel::close_code::CloseCode;
use crate::tunnel::frames::Frames;

/// An application that exits closes its sockets before its drone hears of it. The drone has this
/// long to say so; after that, the end of the bytes is all that the client gets.
const WORD_MAX: Duration = Duration::from_millis(300);
/// After that word, for the reason: the engine's confirmation, which a busy one takes long for.
const REASON_MAX: Duration = Duration::from_secs(5);
/// The other way round: after the drone's word, what the application has sent before is still to
/// come, and then its end.
const LAST_FRAMES_MAX: Duration = Duration::from_millis(100);

/// Whether a WebSocket's client is done: it has sent a close frame, or is gone.
#[derive(Debug, Default)]
pub struct Done(AtomicBool);

/// Follows the frames of a WebSocket's client, until it is done.
pub struct Heard<'a> {
    frames: Frames,
    done: &'a Done,
}

impl<'a> Heard<'a> {
    pub fn new(done: &'a Done) -> Self {
        Self { frames: Frames::default(), done }
    }

    /// The client has ended its side.
    pub fn is_gone(&self) {
        self.done.0.store(true, Ordering::Relaxed);
    }

    /// True once: with these bytes, the client is done.
    pub fn is_done_with(&mut self, bytes: &[u8]) -> bool {
        if self.frames.has_closed() {
            return false;
        }
        self.frames.advance(bytes);
        let is_done = self.frames.has_closed();
        if is_done {
            self.done.0.store(true, Ordering::Relaxed);
        }
        is_done
    }
}

/// The sources of a last word: the drain's turn, and the session's gate.
pub struct Words<'a, T> {
    /// Returns when the client is to be told something.
    pub turn: T,
    pub gate: &'a Gate,
}

/// Follows the frames to a client, up to the one after which the last word comes.
pub struct Closing<'a, T> {
    frames: Frames,
    /// `None`: it speaks no WebSocket.
    words: Option<Words<'a, T>>,
    due: Option<CloseCode>,
    /// Until when an application that has ended may still be heard.
    heard_until: Option<Pin<Box<Sleep>>>,
    client: &'a Done,
}

impl<'a, T: Future<Output = CloseCode> + Unpin> Closing<'a, T> {
    pub fn at(words: Option<Words<'a, T>>, client: &'a Done) -> Self {
        Self { frames: Frames::default(), words, due: None, heard_until: None, client }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<CloseCode> {
        let Some(words) = &mut self.words else { return Poll::Pending };
        let code = std::task::ready!(Pin::new(&mut words.turn).poll(cx));
        if matches!(code, CloseCode::Ended(_)) {
            self.heard_until = Some(Box::pin(sleep(LAST_FRAMES_MAX)));
        }
        self.due = Some(code);
        Poll::Ready(code)
    }

    /// Returns when there may be something to read, or when it has left.
    pub async fn readable(&mut self, from: &ReadHalf<'_>) -> io::Result<()> {
        let mut readable = pin!(from.readable());
        poll_fn(|cx| {
            if self.due.is_none() {
                let _is_due = self.poll_turn(cx);
            }
            if let Some(until) = &mut self.heard_until
                && until.as_mut().poll(cx).is_ready()
            {
                self.heard_until = None;
            }
            if self.has_left() {
                return Poll::Ready(Ok(()));
            }
            readable.as_mut().poll(cx)
        })
        .await
    }

    /// Reads without waiting. An application that exits with something unread resets its
    /// connections: that is its end too.
    pub fn read(
        &self,
        from: &mut ReadHalf<'_>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> io::Result<Option<usize>> {
        match read_now(from, cx, bytes) {
            Err(error) if self.words.is_some() && is_hung_up(&error) => Ok(Some(0)),
            read => read,
        }
    }

    /// Of these bytes, those that still go out.
    pub fn before_leaving<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        if self.due.is_none() || self.heard_until.is_some() {
            self.frames.advance(bytes);
            return bytes;
        }
        let end = self.frames.advance_to_end(bytes).unwrap_or(bytes.len());
        &bytes[..end]
    }

    pub fn has_left(&self) -> bool {
        self.due.is_some() && self.heard_until.is_none() && self.frames.is_between()
    }

    /// After it has left: nothing follows a close frame of the application's own.
    pub fn last_word(&self) -> Option<CloseCode> {
        self.due.filter(|_| !self.frames.has_closed())
    }

    /// The application has ended its side: the last word to the client, if one can follow here.
    pub async fn at_end(&mut self) -> Option<CloseCode> {
        let gate = self.words.as_ref()?.gate;
        if !self.frames.is_between() || self.frames.has_closed() {
            return None;
        }
        // Its size is for the few that wait, not for all that are open.
        Box::pin(self.word(gate)).await
    }

    async fn word(&mut self, gate: &Gate) -> Option<CloseCode> {
        let first = {
            let mut ending = pin!(gate.ending());
            let first = poll_fn(|cx| match self.poll_word(cx) {
                Poll::Pending => ending.as_mut().poll(cx).map(Err),
                Poll::Ready(word) => Poll::Ready(Ok(word)),
            });
            timeout(WORD_MAX, first).await
        };
        match first {
            Ok(Ok(word)) => word,
            Ok(Err(Some(reason))) => Some(CloseCode::Ended(Some(reason))),
            Ok(Err(None)) => {
                let word = timeout(REASON_MAX, poll_fn(|cx| self.poll_word(cx))).await;
                word.unwrap_or(Some(CloseCode::Ended(None)))
            }
            Err(_) => None,
        }
    }

    /// `None`: the client waits for none.
    fn poll_word(&mut self, cx: &mut Context<'_>) -> Poll<Option<CloseCode>> {
        match (self.due, self.client.0.load(Ordering::Relaxed)) {
            (Some(due), _) => Poll::Ready(Some(due)),
            (None, true) => Poll::Ready(None),
            (None, false) => self.poll_turn(cx).map(Some),
        }
    }
}

pub fn is_hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
