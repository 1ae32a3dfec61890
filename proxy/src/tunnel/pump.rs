//! The bytes of an upgraded connection: two sockets, and no look inside. In the
//! direction of a WebSocket's client, the ends of frames are known, so that it can be told to come
//! back when this process stops.
//!
//! A connection that is quiet holds no buffer: a task waits until there is something to read,
//! borrows a buffer of its thread, and gives it back when the socket has no more. A message that
//! fits into the buffer costs one read and one write: a read that did not fill the buffer is not
//! followed by another that would find nothing.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use jetway_service::socket::Stalled;
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::task::coop::consume_budget;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::io::buffers::{Buffer, read_now, write_now};
use crate::tunnel::close::{Closing, Done, Heard, Words, is_hung_up};
use crate::tunnel::close_code::CloseCode;

/// After one side has ended its direction, the other has this long to end its own.
pub const HALF_CLOSED_MAX: Duration = Duration::from_secs(60);
/// Reads of one busy connection before others have their turn.
const READS_PER_TURN: usize = 16;

/// One side: its socket, and the bytes that were already read of it.
#[derive(Debug)]
pub struct Side {
    pub stream: TcpStream,
    pub early: Bytes,
}

/// Carries bytes both ways until both directions have ended, one has failed, or `half_closed_max`
/// is over. Dropping the future closes the backend's socket; the client's is the caller's.
///
/// `words`: the client speaks WebSocket, and is told what happens to its session. What is final is
/// given back, to be said once the backend's side is closed.
pub async fn run(
    client: &mut Side,
    mut backend: Side,
    half_closed_max: Duration,
    words: Option<Words<'_, impl Future<Output = CloseCode> + Unpin>>,
) -> Option<CloseCode> {
    let (early, done) = (std::mem::take(&mut client.early), Done::default());
    let ((client_reads, client_writes), (backend_reads, backend_writes)) =
        (client.stream.split(), backend.stream.split());
    let heard = words.is_some().then(|| Heard::new(&done));
    let up = pump(client_reads, backend_writes.as_ref(), early, heard);
    let down = async {
        match words {
            Some(words) => {
                let frames = Closing::at(Some(words), &done);
                pump_frames(backend_reads, client_writes.as_ref(), backend.early, frames).await
            }
            None => pump(backend_reads, client_writes.as_ref(), backend.early, None).await.map(|()| None),
        }
    };
    until_both_end(up, down, half_closed_max).await
}

/// The same for a client whose side is one of many streams of a connection.
pub async fn run_stream(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut backend: Side,
    half_closed_max: Duration,
    words: Option<Words<'_, impl Future<Output = CloseCode> + Unpin>>,
) -> Option<CloseCode> {
    let done = Done::default();
    let (client_reads, client_writes) = tokio::io::split(client);
    let (backend_reads, backend_writes) = backend.stream.split();
    let heard = words.is_some().then(|| Heard::new(&done));
    let up = pump_from_stream(client_reads, backend_writes.as_ref(), heard);
    let frames = Closing::at(words, &done);
    let down = pump_frames(backend_reads, StreamSide(client_writes), backend.early, frames);
    until_both_end(up, down, half_closed_max).await
}

async fn until_both_end(
    up: impl Future<Output = io::Result<()>>,
    down: impl Future<Output = io::Result<Option<CloseCode>>>,
    half_closed_max: Duration,
) -> Option<CloseCode> {
    tokio::pin!(up, down);
    let ended = tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => timeout(half_closed_max, down).await,
            Err(reason) => Ok(Err(reason)),
        },
        ended = &mut down => match ended {
            Ok(None) => timeout(half_closed_max, up).await.map(|ended| ended.map(|()| None)),
            last => Ok(last),
        },
    };
    match ended {
        Ok(Ok(last_word)) => return last_word,
        Ok(Err(reason)) => tracing::debug!(%reason, "a tunnel broke"),
        Err(_) => tracing::debug!("a tunnel stayed half closed for too long"),
    }
    None
}

/// One direction, up to and including its end.
///
/// A socket that always has more to read uses its task's budget up; then it says that there is
/// nothing, while it still says that it is readable: a task that does not wait for a new budget in
/// between would turn round and round, and hold a thread for ever.
async fn pump(
    mut from: ReadHalf<'_>,
    to: &TcpStream,
    early: Bytes,
    mut heard: Option<Heard<'_>>,
) -> io::Result<()> {
    pass_on(to, &early, heard.as_mut()).await?;
    drop(early);
    loop {
        consume_budget().await;
        from.readable().await?;
        let mut buffer = Buffer::borrow();
        for _ in 0..READS_PER_TURN {
            match poll_fn(|cx| Poll::Ready(read_now(&mut from, cx, &mut buffer.0))).await? {
                None => break,
                Some(0) => {
                    if let Some(heard) = &heard {
                        heard.is_gone();
                    }
                    // The other side may be gone already; its own direction says so.
                    let _already_closed = rustix::net::shutdown(to, Shutdown::Write);
                    return Ok(());
                }
                Some(read) => match pass_on(to, &buffer.0[..read], heard.as_mut()).await? {
                    Passed::On => {}
                    Passed::Over => return Ok(()),
                },
            }
        }
    }
}

/// The same towards the client of a WebSocket, until its turn to leave: then a close frame, as soon
/// as one can follow.
async fn pump_frames(
    mut from: ReadHalf<'_>,
    mut to: impl ToClient,
    early: Bytes,
    mut frames: Closing<'_, impl Future<Output = CloseCode> + Unpin>,
) -> io::Result<Option<CloseCode>> {
    to.write(frames.before_leaving(&early)).await?;
    to.flush().await?;
    drop(early);
    let word = loop {
        frames.readable(&from).await?;
        if frames.has_left() {
            break frames.last_word();
        }
        consume_budget().await;
        let mut buffer = Buffer::borrow();
        let mut has_ended = false;
        for _ in 0..READS_PER_TURN {
            match poll_fn(|cx| Poll::Ready(frames.read(&mut from, cx, &mut buffer.0))).await? {
                None => break,
                Some(0) => {
                    has_ended = true;
                    break;
                }
                Some(read) => to.write(frames.before_leaving(&buffer.0[..read])).await?,
            }
            if frames.has_left() {
                break;
            }
        }
        drop(buffer);
        to.flush().await?;
        if has_ended {
            break frames.at_end().await;
        }
    };
    match word {
        Some(last) if last.is_final() => return Ok(Some(last)),
        Some(code) => to.write(&code.frame()).await?,
        None => {}
    }
    to.end().await?;
    Ok(None)
}

/// The client's side, as the direction towards a WebSocket's client writes to it.
trait ToClient {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// After a run of writes. TLS may still hold some of them, and only a flush sends that.
    async fn flush(&mut self) -> io::Result<()>;
    async fn end(&mut self) -> io::Result<()>;
}

impl ToClient for &TcpStream {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_all(self, bytes).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn end(&mut self) -> io::Result<()> {
        let _already_closed = rustix::net::shutdown(self, Shutdown::Write);
        Ok(())
    }
}

/// One of many streams of a connection.
struct StreamSide<W>(W);

impl<W: AsyncWrite + Unpin> ToClient for StreamSide<W> {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }

    async fn end(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

/// A buffer is borrowed for each look whether there is something; the stream has its own for what
/// has come.
async fn pump_from_stream(
    from: impl AsyncRead,
    to: &TcpStream,
    mut heard: Option<Heard<'_>>,
) -> io::Result<()> {
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
                if let Some(heard) = &heard {
                    heard.is_gone();
                }
                let _already_closed = rustix::net::shutdown(to, Shutdown::Write);
                return Ok(());
            }
            (buffer, read) => match pass_on(to, &buffer.0[..read], heard.as_mut()).await? {
                Passed::On => {}
                Passed::Over => return Ok(()),
            },
        }
    }
}

/// Whether a direction goes on.
enum Passed {
    On,
    /// There is nothing that would take more.
    Over,
}

/// `heard`: from the client of a WebSocket. What its application does not take any more is no
/// failure: the other direction sees the application's end, and says what it was.
async fn pass_on(to: &TcpStream, bytes: &[u8], heard: Option<&mut Heard<'_>>) -> io::Result<Passed> {
    let Some(heard) = heard else {
        write_all(to, bytes).await?;
        return Ok(Passed::On);
    };
    match write_all(to, bytes).await {
        Ok(()) => {}
        Err(error) if is_hung_up(&error) => return Ok(Passed::Over),
        Err(error) => return Err(error),
    }
    if heard.is_done_with(bytes) {
        // So that the other direction has its turn, and waits for no word any more.
        yield_now().await;
    }
    Ok(Passed::On)
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    if write_now(to, &mut bytes)? {
        return Ok(());
    }
    write_slowly(to, bytes).await
}

/// To a side that does not take everything at once, and takes something now and then.
async fn write_slowly(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let mut stalled = Stalled::default();
    poll_fn(|cx| {
        loop {
            let left = bytes.len();
            if write_now(to, &mut bytes)? {
                stalled.moved(to);
                return Poll::Ready(Ok(()));
            }
            if bytes.len() < left {
                stalled.moved(to);
            }
            if to.poll_write_ready(cx)?.is_pending() {
                return stalled.poll(to, cx).map(Err);
            }
        }
    })
    .await
}
