//! Settings of every TCP connection that we accept or make, and how long its peer is waited for.
//!
//! A peer that acknowledges nothing is gone. One that acknowledges and takes nothing more, because
//! its application reads nothing, is alive: a paused video, a page behind a dialog, an application
//! that computes. The kernel's timeout (tcp(7), `TCP_USER_TIMEOUT`) ends both alike, so it is
//! raised for the second kind, for as long as a write waits for it ([`Stalled`]).

use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

const KEEPALIVE_PROBES: u32 = 6;
/// What the kernel takes.
const KEEPALIVE_MIN: Duration = Duration::from_secs(1);
/// At a peer that takes nothing, within the time after which the kernel ends it.
const LOOKS: u32 = 4;

/// How long a peer is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// One that acknowledges nothing, neither data nor keepalive probes.
    pub gone: Duration,
    /// One that takes nothing of what a write has for it.
    pub unread: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { gone: Duration::from_secs(120), unread: Duration::from_secs(600) }
    }
}

static PATIENCE: OnceLock<Patience> = OnceLock::new();

pub fn patience() -> Patience {
    PATIENCE.get().copied().unwrap_or_default()
}

/// For the whole process, before its first connection. Tests have less than the default.
pub fn set_patience(patience: Patience) {
    let _the_first_counts = PATIENCE.set(patience);
}

/// No delay for small packets, and a dead peer is noticed, whether or not data is on its way to it.
/// A socket that refuses has failed already; its first read says so.
pub fn prepare(stream: &TcpStream) {
    let gone = patience().gone;
    let set = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_MIN.max(gone / 2))?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE_MIN.max(gone / 2 / KEEPALIVE_PROBES))?;
        sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
        set_user_timeout(stream, gone)
    };
    if let Err(reason) = set() {
        tracing::debug!(%reason, "a socket takes no settings");
    }
}

fn set_user_timeout(stream: &TcpStream, longest: Duration) -> io::Result<()> {
    let milliseconds = u32::try_from(longest.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(stream, milliseconds)?)
}

/// A write that waits for its peer to take something. Nothing is held while none waits.
#[derive(Debug, Default)]
pub struct Stalled(Option<Box<Waits>>);

#[derive(Debug)]
struct Waits {
    since: Instant,
    is_raised: bool,
    sleep: Pin<Box<Sleep>>,
}

impl Stalled {
    /// The peer has taken something.
    pub fn moved(&mut self, stream: &TcpStream) {
        if self.0.take().is_some_and(|waits| waits.is_raised) {
            let _it_has_failed = set_user_timeout(stream, patience().gone);
        }
    }

    /// Nothing can be written. Ready: nothing could for too long.
    pub fn poll(&mut self, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Patience { gone, unread } = patience();
        let waits = self.0.get_or_insert_with(|| Box::new(Waits::new(gone / LOOKS)));
        while waits.sleep.as_mut().poll(cx).is_ready() {
            let (looked, until) = (waits.sleep.deadline(), waits.since + unread);
            if looked >= until {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            // What is on its way is the kernel's to wait for.
            if !waits.is_raised && in_flight(stream).is_ok_and(|bytes| bytes == 0) {
                waits.is_raised = set_user_timeout(stream, unread).is_ok();
            }
            let next = if waits.is_raised { until } else { until.min(looked + gone / LOOKS) };
            waits.sleep.as_mut().reset(next);
        }
        Poll::Pending
    }

    /// The same for what a write has said.
    fn judge<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        stream: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(written) => {
                self.moved(stream);
                Poll::Ready(written)
            }
            Poll::Pending => self.poll(stream, cx).map(Err),
        }
    }
}

impl Waits {
    fn new(look: Duration) -> Self {
        let since = Instant::now();
        Self { since, is_raised: false, sleep: Box::pin(sleep_until(since + look)) }
    }
}

/// Bytes that were sent and are not acknowledged. Where there are none and some wait to be sent,
/// the peer's window is closed.
fn in_flight(stream: &TcpStream) -> io::Result<c_int> {
    /// What is not acknowledged, and what of it is not sent (tcp(7), `SIOCOUTQ`; linux/sockios.h).
    const UNACKNOWLEDGED: Opcode = 0x5411;
    const UNSENT: Opcode = 0x894b;
    let (socket, other) = (stream.as_fd(), stream.as_fd());
    // SAFETY: both write one int to where they are told to, and read nothing.
    let unacknowledged = unsafe { ioctl(socket, Getter::<UNACKNOWLEDGED, c_int>::new()) }?;
    // SAFETY: as above.
    let unsent = unsafe { ioctl(other, Getter::<UNSENT, c_int>::new()) }?;
    Ok(unacknowledged - unsent)
}

/// A connection whose writes do not wait for ever.
#[derive(Debug)]
pub struct Patient {
    stream: TcpStream,
    stalled: Stalled,
}

impl Patient {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, stalled: Stalled::default() }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn into_inner(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, stalled } = &mut *self;
        let written = Pin::new(&mut *stream).poll_write(cx, bytes);
        stalled.judge(written, stream, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, stalled } = &mut *self;
        let written = Pin::new(&mut *stream).poll_write_vectored(cx, slices);
        stalled.judge(written, stream, cx)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Patience = Patience { gone: Duration::from_secs(2), unread: Duration::from_secs(8) };
    const LARGE_BYTES: usize = 64 * 1024 * 1024;

    async fn pair() -> (TcpStream, TcpStream) {
        set_patience(PATIENCE);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let near = near.unwrap();
        prepare(&near);
        (near, far.unwrap().0)
    }

    fn user_timeout(stream: &TcpStream) -> u128 {
        sockopt::tcp_user_timeout(stream).unwrap().into()
    }

    #[tokio::test]
    async fn every_socket_has_the_timeout() {
        let (near, far) = pair().await;
        assert_eq!(user_timeout(&near), PATIENCE.gone.as_millis());
        assert_eq!(user_timeout(&far), 0, "nobody has prepared it");
        let default = Patience::default();
        assert_eq!((default.gone.as_secs(), default.unread.as_secs()), (120, 600), "as docs/deploy.md says");
    }

    #[tokio::test]
    async fn a_peer_that_pauses_has_longer_than_one_that_is_gone() {
        let (near, mut far) = pair().await;
        let mut near = Patient::new(near);
        let reads = async {
            tokio::time::sleep(2 * PATIENCE.gone).await;
            let mut all = vec![0; LARGE_BYTES];
            far.read_exact(&mut all).await.map(|_| ())
        };
        let (written, read) = tokio::join!(async { near.write_all(&vec![7; LARGE_BYTES]).await }, reads);
        written.unwrap();
        read.unwrap();
        assert_eq!(user_timeout(near.stream()), PATIENCE.gone.as_millis(), "as before");
        assert!(near.stalled.0.is_none(), "and nothing is held");
    }

    #[tokio::test]
    async fn a_peer_that_reads_slowly_is_not_ended() {
        let (near, mut far) = pair().await;
        let mut near = Patient::new(near);
        let reads = async {
            let begun = Instant::now();
            let mut some = vec![0; 4 * 1024 * 1024];
            while begun.elapsed() < PATIENCE.unread + PATIENCE.gone {
                tokio::time::sleep(PATIENCE.gone).await;
                let _part = far.read(&mut some).await.unwrap();
            }
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.unwrap();
        };
        let writes = async {
            near.write_all(&vec![7; LARGE_BYTES]).await.unwrap();
            near.shutdown().await.unwrap();
        };
        tokio::join!(writes, reads);
    }

    /// The kernel's clock stands still here.
    #[tokio::test(start_paused = true)]
    async fn a_write_that_waits_has_an_end_of_its_own() {
        let (near, _far) = pair().await;
        let (mut stalled, begun) = (Stalled::default(), Instant::now());
        let end = std::future::poll_fn(|cx| stalled.poll(&near, cx));
        let error = timeout(2 * PATIENCE.unread, end).await.expect("an end");
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, PATIENCE.unread));
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_not_waited_for_for_ever() {
        let (near, _far) = pair().await;
        let (mut near, begun) = (Patient::new(near), Instant::now());
        let large = vec![7; LARGE_BYTES];
        let written = timeout(2 * PATIENCE.unread, near.write_all(&large)).await.expect("an end");
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let took = begun.elapsed();
        assert!(
            took >= PATIENCE.unread - PATIENCE.gone && took < PATIENCE.unread + PATIENCE.gone,
            "{took:?}"
        );
    }
}
