//! The last frame of a WebSocket that the proxy ends itself: its close code and text, and its way
//! to the client. [`crate::tunnel::close`] and [`crate::request::handshake`] say when one is due.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use jetway_protocol::status::EndReason;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::attach::Closed;
use crate::io::buffers::Buffer;

/// A client has this long to take the frame and to close its side.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// A control frame's payload is 125 bytes at most (RFC 6455 §5.5), two of them the status.
const TEXT_BYTES_MAX: usize = 123;

/// The reason that a WebSocket's client gets as the status of a last frame (RFC 6455 §7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// "Service restart" (IANA's WebSocket close code registry): it may come back at once, and
    /// reaches another proxy or drone.
    ComeBack,
    /// "Try again later": too many wait already.
    ComeLater,
    /// Of our own (§7.4.2), as the HTTP status 410 is: its session has ended, and another one has
    /// another URL. The reason is `None` where no drone knows it.
    Ended(Option<EndReason>),
    /// Likewise, as 403: its grant was revoked.
    Revoked,
}

impl From<Closed> for CloseCode {
    fn from(why: Closed) -> Self {
        match why {
            Closed::Ended(end) => CloseCode::Ended(Some(end.reason)),
            Closed::Revoked => CloseCode::Revoked,
        }
    }
}

impl CloseCode {
    fn status(self) -> u16 {
        match self {
            CloseCode::ComeBack => 1012,
            CloseCode::ComeLater => 1013,
            CloseCode::Ended(_) => 4410,
            CloseCode::Revoked => 4403,
        }
    }

    fn text(self) -> &'static str {
        match self {
            CloseCode::ComeBack => "",
            CloseCode::ComeLater => "busy",
            CloseCode::Ended(reason) => reason.map_or("", EndReason::as_str),
            CloseCode::Revoked => "revoked",
        }
    }

    /// The proxy sends nothing more of the application's, nor takes anything for it.
    pub fn is_final(self) -> bool {
        match self {
            CloseCode::ComeBack => false,
            CloseCode::ComeLater | CloseCode::Ended(_) | CloseCode::Revoked => true,
        }
    }

    /// From a server, so without a mask (§5.1): FIN and opcode 8, two bytes of status, the text
    /// (§5.5.1).
    pub fn frame(self) -> Vec<u8> {
        let text = self.text().as_bytes();
        let text = &text[..text.len().min(TEXT_BYTES_MAX)];
        let length = u8::try_from(2 + text.len()).unwrap_or(2);
        [&[0x88, length][..], &self.status().to_be_bytes(), text].concat()
    }

    /// Says it as the last word, and waits until the client has closed too (§7.1.1). A socket that
    /// is closed over unread bytes is reset, and the frame may be lost with that: what the client
    /// still sends is read and dropped.
    pub async fn say_to(self, client: impl AsyncRead + AsyncWrite + Unpin) {
        match timeout(FAREWELL_MAX, say(client, &self.frame())).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => tracing::debug!(%reason, ?self, "a client did not take its last frame"),
            Err(_) => tracing::debug!(?self, "a client did not close after its last frame"),
        }
    }
}

async fn say(mut client: impl AsyncRead + AsyncWrite + Unpin, frame: &[u8]) -> std::io::Result<()> {
    client.write_all(frame).await?;
    client.shutdown().await?;
    poll_fn(|cx| {
        let mut buffer = Buffer::borrow();
        loop {
            let mut bytes = ReadBuf::new(&mut buffer.0);
            ready!(Pin::new(&mut client).poll_read(cx, &mut bytes))?;
            if bytes.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_frame_has_its_status_and_its_text() {
        let table: [(CloseCode, &[u8]); 5] = [
            (CloseCode::ComeBack, b"\x88\x02\x03\xf4"),
            (CloseCode::ComeLater, b"\x88\x06\x03\xf5busy"),
            (CloseCode::Ended(Some(EndReason::Crashed)), b"\x88\x09\x11\x3acrashed"),
            (CloseCode::Ended(None), b"\x88\x02\x11\x3a"),
            (CloseCode::Revoked, b"\x88\x09\x11\x33revoked"),
        ];
        for (code, expect) in table {
            assert_eq!(code.frame(), expect, "{code:?}");
        }
        for reason in EndReason::ALL {
            let frame = CloseCode::Ended(Some(reason)).frame();
            assert_eq!(&frame[4..], reason.as_str().as_bytes(), "the reason is not cut off");
        }
    }

    /// The client's bytes do not stay unread, and its close is waited for.
    #[tokio::test]
    async fn a_client_that_still_talks_is_heard_out() {
        let (mut client, near) = duplex(64);
        let talk = async {
            client.write_all(&[7; 4096]).await.unwrap();
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, CloseCode::Revoked.frame());
            drop(client);
        };
        tokio::join!(CloseCode::Revoked.say_to(near), talk);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_close_is_left() {
        for room in [64, 1] {
            let (_client, near) = duplex(room);
            let begun = Instant::now();
            CloseCode::Ended(Some(EndReason::Idle)).say_to(near).await;
            assert_eq!(begun.elapsed(), FAREWELL_MAX, "room for {room} bytes");
        }
    }
}
