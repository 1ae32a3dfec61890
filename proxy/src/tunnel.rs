//! The bytes of an upgraded connection: two sockets, no frames, no look inside.
//!
//! A connection that is quiet holds no buffer: a task waits until there is something to read, borrows a buffer of its
//! thread, and gives it back when the socket has no more.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use rustix::net::Shutdown;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// After one side has ended its direction, the other has this long to end its own.
const HALF_CLOSED_MAX: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 16 * 1024;
/// Buffers that a thread keeps for the next reads.
const BUFFERS_KEPT_MAX: usize = 16;
/// Reads of one busy connection before others have their turn.
const READS_PER_TURN: usize = 16;

/// One side: its socket, and what was already read of it.
#[derive(Debug)]
pub struct Side {
    pub stream: TcpStream,
    pub early: Bytes,
}

/// Carries bytes both ways until both directions have ended, one has failed, or the half-closed time is over.
/// Dropping the future closes both sockets.
pub async fn run(client: Side, backend: Side) {
    let up = pump(&client.stream, &backend.stream, client.early);
    let down = pump(&backend.stream, &client.stream, backend.early);
    tokio::pin!(up, down);
    let ended = tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => timeout(HALF_CLOSED_MAX, down).await,
            failed => Ok(failed),
        },
        ended = &mut down => match ended {
            Ok(()) => timeout(HALF_CLOSED_MAX, up).await,
            failed => Ok(failed),
        },
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => tracing::debug!(%reason, "a tunnel broke"),
        Err(_) => tracing::debug!("a tunnel stayed half closed for too long"),
    }
}

/// One direction, up to and including its end.
async fn pump(from: &TcpStream, to: &TcpStream, early: Bytes) -> io::Result<()> {
    write_all(to, &early).await?;
    drop(early);
    loop {
        from.readable().await?;
        let mut buffer = Buffer::borrow();
        for _ in 0..READS_PER_TURN {
            match from.try_read(&mut buffer.0) {
                Ok(0) => {
                    // The other side may be gone already; its own direction says so.
                    let _already_closed = rustix::net::shutdown(to, Shutdown::Write);
                    return Ok(());
                }
                Ok(read) => write_all(to, &buffer.0[..read]).await?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

struct Buffer(Box<[u8]>);

impl Buffer {
    fn borrow() -> Self {
        let kept = BUFFERS.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // A thread that is ending keeps none.
        let _no_thread_local_any_more = BUFFERS.try_with(|buffers| {
            if let Ok(mut buffers) = buffers.try_borrow_mut()
                && buffers.len() < BUFFERS_KEPT_MAX
            {
                buffers.push(buffer);
            }
        });
    }
}
