//! Buffers that a thread lends for a read or a write, so that a quiet connection holds none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

pub const BUFFER_BYTES: usize = 16 * 1024;
/// Of one for a stream that has filled a smaller one.
const LARGE_BYTES: usize = 4 * BUFFER_BYTES;
/// Buffers of each kind that a thread keeps.
const KEPT_MAX: usize = 16;
/// A text that has grown beyond this is not kept.
const TEXT_BYTES_MAX: usize = 4 * BUFFER_BYTES;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static LARGE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static TEXTS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// To read into.
pub struct Buffer(pub Box<[u8]>);

/// To write into, and send in one piece.
pub struct Text(pub Vec<u8>);

impl Buffer {
    pub fn borrow() -> Self {
        let kept = BUFFERS.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice()))
    }

    pub fn borrow_large() -> Self {
        let kept = LARGE.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| vec![0; LARGE_BYTES].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        let kept = if buffer.len() == BUFFER_BYTES { &BUFFERS } else { &LARGE };
        // A thread that is ending keeps none.
        let _no_thread_local_any_more = kept.try_with(|buffers| keep(buffers, buffer));
    }
}

impl Text {
    pub fn borrow() -> Self {
        let mut text = TEXTS.with_borrow_mut(Vec::pop).unwrap_or_default();
        text.clear();
        Self(text)
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.0);
        if text.capacity() <= TEXT_BYTES_MAX {
            let _no_thread_local_any_more = TEXTS.try_with(|texts| keep(texts, text));
        }
    }
}

fn keep<T>(kept: &RefCell<Vec<T>>, one: T) {
    if let Ok(mut kept) = kept.try_borrow_mut()
        && kept.len() < KEPT_MAX
    {
        kept.push(one);
    }
}

/// Reads without waiting. Unlike `try_read`, this read remembers that it did not fill
/// the buffer, and the next one is `None` without a call to the kernel.
pub fn read_now(
    from: impl AsyncRead + Unpin,
    cx: &mut Context<'_>,
    bytes: &mut [u8],
) -> io::Result<Option<usize>> {
    let (mut from, mut bytes) = (from, ReadBuf::new(bytes));
    match Pin::new(&mut from).poll_read(cx, &mut bytes) {
        Poll::Ready(read) => read.map(|()| Some(bytes.filled().len())),
        Poll::Pending => Ok(None),
    }
}

/// Whether all of it could be written without waiting.
pub fn write_now(to: &TcpStream, text: &mut &[u8]) -> io::Result<bool> {
    while !text.is_empty() {
        match to.try_write(text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => *text = &text[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// How many buffers this thread keeps.
#[cfg(test)]
pub fn kept() -> usize {
    BUFFERS.with_borrow(Vec::len)
}
