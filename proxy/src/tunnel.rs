//! The bytes of an upgraded connection: two sockets, and no look inside. Of what goes to a WebSocket's client it is known where frames end,
//! so that it can be told to come back when this process stops.
//!
//! A connection that is quiet holds no buffer: a task waits until there is something to read, borrows a buffer of its
//! thread, and gives it back when the socket has no more. A message that fits into the buffer costs one read and one
//! write: a read that did not fill the buffer is not followed by another that would find nothing.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use crate::buffers::{Buffer, read_now, write_now};
use crate::leaving::{Goodbye, Leaving};

/// After one side has ended its direction, the other has this long to end its own.
pub const HALF_CLOSED_MAX: Duration = Duration::from_secs(60);
/// Reads of one busy connection before others have their turn.
const READS_PER_TURN: usize = 16;

/// One side: its socket, and what was already read of it.
#[derive(Debug)]
pub struct Side {
    pub stream: TcpStream,
    pub early: Bytes,
}

/// Carries bytes both ways until both directions have ended, one has failed, or `half_closed_max` is over.
/// Dropping the future closes both sockets.
///
/// `leave`: its client speaks WebSocket, and is told to come back when this returns.
pub async fn run(
    mut client: Side,
    mut backend: Side,
    half_closed_max: Duration,
    leave: Option<impl Future<Output = Goodbye> + Unpin>,
) {
    let ((client_reads, client_writes), (backend_reads, backend_writes)) =
        (client.stream.split(), backend.stream.split());
    let up = pump(client_reads, backend_writes.as_ref(), client.early);
    let down = async {
        match leave {
            Some(turn) => pump_frames(backend_reads, client_writes.as_ref(), backend.early, turn).await,
            None => pump(backend_reads, client_writes.as_ref(), backend.early).await,
        }
    };
    until_both_end(up, down, half_closed_max).await;
}

/// The same for a client whose side is one of many streams of a connection.
pub async fn run_stream(
    client: impl AsyncRead + AsyncWrite,
    mut backend: Side,
    half_closed_max: Duration,
    leave: Option<impl Future<Output = Goodbye> + Unpin>,
) {
    let (client_reads, client_writes) = tokio::io::split(client);
    let (backend_reads, backend_writes) = backend.stream.split();
    let up = pump_from_stream(client_reads, backend_writes.as_ref());
    let down = pump_to_stream(backend_reads, client_writes, backend.early, leave);
    until_both_end(up, down, half_closed_max).await;
}

async fn until_both_end(
    up: impl Future<Output = io::Result<()>>,
    down: impl Future<Output = io::Result<()>>,
    half_closed_max: Duration,
) {
    tokio::pin!(up, down);
    let ended = tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => timeout(half_closed_max, down).await,
            failed => Ok(failed),
        },
        ended = &mut down => match ended {
            Ok(()) => timeout(half_closed_max, up).await,
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
///
/// A socket that always has more to read uses its task's budget up; then it says that there is nothing, while it still says that it is
/// readable: whoever does not wait for a new budget in between would turn round and round, and hold a thread for ever.
async fn pump(mut from: ReadHalf<'_>, to: &TcpStream, early: Bytes) -> io::Result<()> {
    write_all(to, &early).await?;
    drop(early);
    loop {
        consume_budget().await;
        from.readable().await?;
        let mut buffer = Buffer::borrow();
        for _ in 0..READS_PER_TURN {
            match poll_fn(|cx| Poll::Ready(read_now(&mut from, cx, &mut buffer.0))).await? {
                None => break,
                Some(0) => {
                    // The other side may be gone already; its own direction says so.
                    let _already_closed = rustix::net::shutdown(to, Shutdown::Write);
                    return Ok(());
                }
                Some(read) => write_all(to, &buffer.0[..read]).await?,
            }
        }
    }
}

/// The same towards the client of a WebSocket, until its turn to leave: then a close frame, as soon as one can follow.
async fn pump_frames(
    mut from: ReadHalf<'_>,
    to: &TcpStream,
    early: Bytes,
    turn: impl Future<Output = Goodbye> + Unpin,
) -> io::Result<()> {
    let mut frames = Leaving::at(turn);
    write_all(to, frames.before_leaving(&early)).await?;
    drop(early);
    let goodbye = loop {
        if let Some(goodbye) = frames.readable(&from).await? {
            break goodbye;
        }
        consume_budget().await;
        let mut buffer = Buffer::borrow();
        for _ in 0..READS_PER_TURN {
            match poll_fn(|cx| Poll::Ready(read_now(&mut from, cx, &mut buffer.0))).await? {
                None => break,
                Some(0) => {
                    let _already_closed = rustix::net::shutdown(to, Shutdown::Write);
                    return Ok(());
                }
                Some(read) => write_all(to, frames.before_leaving(&buffer.0[..read])).await?,
            }
            if frames.has_left() {
                break;
            }
        }
    };
    write_all(to, &goodbye.frame()).await?;
    let _already_closed = rustix::net::shutdown(to, Shutdown::Write);
    Ok(())
}

/// A buffer is borrowed for each look whether there is something; the stream has its own for what has come.
async fn pump_from_stream(from: impl AsyncRead, to: &TcpStream) -> io::Result<()> {
    tokio::pin!(from);
    loop {
        let read = poll_fn(|cx| {
            let mut buffer = Buffer::borrow();
            let mut bytes = ReadBuf::new(&mut buffer.0);
            std::task::ready!(from.as_mut().poll_read(cx, &mut bytes))?;
            let read = bytes.filled().len();
            Poll::Ready(Ok::<_, io::Error>((buffer, read)))
        });
        match read.await? {
            (_, 0) => {
                let _already_closed = rustix::net::shutdown(to, Shutdown::Write);
                return Ok(());
            }
            (buffer, read) => write_all(to, &buffer.0[..read]).await?,
        }
    }
}

async fn pump_to_stream(
    mut from: ReadHalf<'_>,
    to: impl AsyncWrite,
    early: Bytes,
    leave: Option<impl Future<Output = Goodbye> + Unpin>,
) -> io::Result<()> {
    let turn = pin!(async {
        match leave {
            Some(turn) => turn.await,
            None => std::future::pending().await,
        }
    });
    let mut frames = Leaving::at(turn);
    tokio::pin!(to);
    to.write_all(frames.before_leaving(&early)).await?;
    to.flush().await?;
    drop(early);
    let goodbye = loop {
        if let Some(goodbye) = frames.readable(&from).await? {
            break goodbye;
        }
        consume_budget().await;
        let mut buffer = Buffer::borrow();
        for _ in 0..READS_PER_TURN {
            match poll_fn(|cx| Poll::Ready(read_now(&mut from, cx, &mut buffer.0))).await? {
                None => break,
                Some(0) => return to.shutdown().await,
                Some(read) => to.write_all(frames.before_leaving(&buffer.0[..read])).await?,
            }
            if frames.has_left() {
                break;
            }
        }
        // What TLS has taken it may still hold, and nobody else would send it.
        drop(buffer);
        to.flush().await?;
    };
    to.write_all(&goodbye.frame()).await?;
    to.shutdown().await
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !write_now(to, &mut bytes)? {
        to.writable().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;
    use crate::buffers::{self, BUFFER_BYTES};

    /// A socket's two ends.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// No WebSocket's.
    const NEVER: Option<std::future::Pending<Goodbye>> = None;

    async fn tunnel(half_closed_max: Duration) -> (TcpStream, TcpStream, impl Future<Output = ()>) {
        let ((client, client_side), (backend, backend_side)) = (pair().await, pair().await);
        let side = |stream| Side { stream, early: Bytes::new() };
        (client, backend, run(side(client_side), side(backend_side), half_closed_max, NEVER))
    }

    #[tokio::test]
    async fn a_tunnel_does_not_stay_half_closed_for_ever() {
        let half_closed_max = Duration::from_millis(50);
        for client_closes in [true, false] {
            let (mut client, mut backend, running) = tunnel(half_closed_max).await;
            let (closes, stays) =
                if client_closes { (&mut client, &mut backend) } else { (&mut backend, &mut client) };
            closes.shutdown().await.unwrap();
            let begun = Instant::now();
            running.await;
            assert!(begun.elapsed() >= half_closed_max, "{:?}", begun.elapsed());
            let mut rest = Vec::new();
            stays.read_to_end(&mut rest).await.unwrap();
            assert!(rest.is_empty());
            assert_eq!(closes.read(&mut [0]).await.unwrap(), 0, "it is closed");
        }
    }

    #[tokio::test]
    async fn a_tunnel_of_a_stream_carries_both_ways_passes_ends_on_and_holds_no_buffer() {
        let (mut client, client_side) = tokio::io::duplex(1024);
        let (mut backend, backend_side) = pair().await;
        let side = Side { stream: backend_side, early: Bytes::from_static(b"early") };
        let talk = async {
            let mut got = [0; 5];
            client.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"early");
            let sent = vec![7; 3 * BUFFER_BYTES + 1];
            let mut got = vec![0; sent.len()];
            let (written, read) = tokio::join!(client.write_all(&sent), backend.read_exact(&mut got));
            written.unwrap();
            read.unwrap();
            assert_eq!(sent, got);
            let (written, read) = tokio::join!(backend.write_all(&sent), client.read_exact(&mut got));
            written.unwrap();
            read.unwrap();
            while buffers::kept() == 0 {
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
            assert_eq!(backend.read(&mut [0]).await.unwrap(), 0);
            backend.write_all(b"last").await.unwrap();
            backend.shutdown().await.unwrap();
            let mut rest = String::new();
            client.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "last");
        };
        tokio::join!(run_stream(client_side, side, HALF_CLOSED_MAX, NEVER), talk);
    }

    #[tokio::test]
    async fn a_quiet_tunnel_holds_no_buffer() {
        let (mut client, mut backend, running) = tunnel(HALF_CLOSED_MAX).await;
        let talk = async {
            for size in [1, BUFFER_BYTES, 3 * BUFFER_BYTES + 1] {
                let (sent, mut got) = (vec![7; size], vec![0; size]);
                let (written, read) = tokio::join!(client.write_all(&sent), backend.read_exact(&mut got));
                written.unwrap();
                read.unwrap();
                assert_eq!(sent, got);
            }
            // The last bytes have come; the tunnel's own task has its next turns before this one goes on.
            while buffers::kept() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = running => panic!("nobody has closed it"),
            () = talk => {}
        }
        assert_eq!(buffers::kept(), 1, "and one was enough");
    }
}
