//! A socket of a client or a backend, and bytes of it that were read before it was known what is spoken there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Reads give what was read ahead first. Afterwards it is the bare socket, and what it was made of can be had back.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    ahead: Bytes,
}

impl Socket {
    pub fn new(stream: TcpStream, ahead: Bytes) -> Self {
        Self { stream, ahead }
    }

    pub fn has_nothing_ahead(&self) -> bool {
        self.ahead.is_empty()
    }

    /// A last word, if there is room for it. What was read of the request is not answered; what was not would turn the close into a
    /// reset, in which the word is lost.
    pub fn refuse(self, word: &[u8]) {
        let mut rest = [0; 4096];
        while self.stream.try_read(&mut rest).is_ok_and(|read| read > 0) {}
        let _best_effort = self.stream.try_write(word);
    }

    /// The socket, and what of the bytes read ahead nobody has taken.
    pub fn into_parts(self) -> (TcpStream, Bytes) {
        (self.stream, self.ahead)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let taken = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..taken]);
        self.ahead.advance(taken);
        if self.ahead.is_empty() {
            self.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
