//! A socket of a client or a backend, with the bytes that were read before its protocol was known.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use jetway_service::socket::Patient;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Reads give what was read ahead first. Afterwards it is the bare socket, and what it was made of
/// can be had back.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    ahead: Bytes,
}

/// The carrier of the bytes.
#[derive(Debug)]
enum Stream {
    Tcp(Patient),
    /// The larger one, of few words.
    Tls(Box<TlsStream<Socket>>),
}

impl Socket {
    pub fn has_nothing_ahead(&self) -> bool {
        self.ahead.is_empty()
    }

    pub fn new(stream: TcpStream, ahead: Bytes) -> Self {
        Self { stream: Stream::Tcp(Patient::new(stream)), ahead }
    }

    pub fn with_tls(stream: TlsStream<Socket>) -> Self {
        Self { stream: Stream::Tls(Box::new(stream)), ahead: Bytes::new() }
    }

    /// The same, with bytes before all others.
    pub fn after(mut self, early: Bytes) -> Self {
        self.ahead = if self.ahead.is_empty() { early } else { [early, self.ahead].concat().into() };
        self
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// A last word, if there is room for it. What was read of the request is not answered; what was
    /// not would turn the close into a reset, in which the word is lost.
    pub fn refuse(self, word: &[u8]) {
        // In TLS, a client would not wait for the end of the handshake's last message for this.
        let Stream::Tcp(patient) = self.stream else { return };
        let stream = patient.stream();
        let mut rest = [0; 4096];
        while stream.try_read(&mut rest).is_ok_and(|read| read > 0) {}
        let _best_effort = stream.try_write(word);
    }

    /// What it was made of, if that is no more than a socket, and what of the bytes read ahead
    /// nobody has taken.
    pub fn into_tcp(self) -> Result<(TcpStream, Bytes), Self> {
        match self.stream {
            Stream::Tcp(patient) => Ok((patient.into_inner(), self.ahead)),
            stream @ Stream::Tls(_) => Err(Self { stream, ahead: self.ahead }),
        }
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

/// Whichever it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match &mut *$stream {
            Stream::Tcp($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
