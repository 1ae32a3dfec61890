//! The two sockets of a plain request, and the waits on each.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use jetway_protocol::spec::Port;
use jetway_service::socket::Stalled;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::attach::{Closed, Gate};
use crate::io::buffers::{Buffer, read_now, write_now};
use crate::upstream::IDLE_MAX;

/// Bytes of one read, or the rest of an earlier one.
pub enum Received {
    Read(Buffer, usize),
    Left(Bytes),
}

impl Received {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Received::Read(buffer, length) => &buffer.0[..*length],
            Received::Left(bytes) => bytes,
        }
    }
}

/// Why a wait is over without success.
#[derive(Debug)]
pub enum Stop {
    /// The client has gone, or cannot be served any more.
    Gone,
    /// The gate has closed.
    Closed(Closed),
    TimedOut,
    /// The backend's connection broke, or has ended.
    Broken,
}

/// One that is moved without cost: the timer is only set anew where it fires too early or would
/// fire too late.
pub struct Clock {
    until: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
}

impl Clock {
    pub fn until(deadline: Instant) -> Self {
        Self { until: Some(deadline), sleep: Box::pin(sleep_until(deadline)) }
    }

    pub fn set(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    /// Whether the deadline is over.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else { return Poll::Pending };
        if self.sleep.deadline() > until {
            self.sleep.as_mut().reset(until);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if self.sleep.deadline() >= until {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(until);
        }
        Poll::Pending
    }
}

pub struct ClientSocket {
    pub stream: TcpStream,
    /// Bytes of it that were not taken yet.
    pub left: Bytes,
    /// It has sent more while it was being served: whether it is gone is seen when that is read.
    has_more: bool,
}

impl Received {
    /// Whether there may be more where it came from.
    fn is_full(&self) -> bool {
        matches!(self, Received::Read(buffer, length) if *length == buffer.0.len())
    }
}

impl ClientSocket {
    pub fn new(stream: TcpStream, left: Bytes) -> Self {
        Self { stream, left, has_more: false }
    }

    /// The next bytes, or `None` at its end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        if !self.left.is_empty() {
            return Poll::Ready(Some(Received::Left(std::mem::take(&mut self.left))));
        }
        self.has_more = false;
        poll_read(&mut self.stream, false, cx).map(|read| read.ok().filter(|came| !came.bytes().is_empty()))
    }

    /// Whether it has gone. One that ends its sending side is taken for gone: a closed tab looks
    /// the same, and must count as closed.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_more {
            return Poll::Pending;
        }
        match std::task::ready!(poll_ahead(&mut self.stream, cx)) {
            Ok(more) if more > 0 => {
                self.has_more = true;
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    pub async fn gone(&mut self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }

    /// Until it has taken everything.
    pub async fn write(&mut self, mut text: &[u8], clock: &mut Clock) -> Result<(), Stop> {
        let mut stalled = Stalled::default();
        poll_fn(|cx| {
            let stop = |cx: &mut Context<'_>| clock.poll(cx).map(|()| Stop::TimedOut);
            poll_write(&self.stream, &mut text, cx, Stop::Gone, &mut stalled, stop)
        })
        .await
    }
}

/// A connection to a backend, for one client's requests one after another.
pub struct BackendSocket {
    stream: TcpStream,
    gate: GateWatch,
    port: Port,
    idle_since: Instant,
    /// The drone knows of the first byte.
    pub is_told: bool,
    /// The last read filled its buffer.
    is_busy: bool,
}

/// The gate of the grant that a connection was dialled under.
struct GateWatch {
    gate: Arc<Gate>,
    /// Wakes the client's task when the gate closes. Registered once, since it is always the same
    /// task: to ask each time would take a lock that all of the gate's connections share.
    closed: BoxFuture<'static, ()>,
    is_registered: bool,
}

impl BackendSocket {
    pub fn new(stream: TcpStream, gate: &Arc<Gate>, port: Port) -> Self {
        let (gate, idle_since) = (GateWatch::new(gate), Instant::now());
        Self { stream, gate, port, idle_since, is_told: false, is_busy: false }
    }

    pub fn leads_to(&self, gate: &Arc<Gate>, port: Port) -> bool {
        Arc::ptr_eq(&self.gate.gate, gate) && self.port == port
    }

    pub fn set_idle(&mut self) {
        self.idle_since = Instant::now();
    }

    /// Itself, if it may be asked something. An answer before that belongs to nothing.
    pub fn waiting(mut self, cx: &mut Context<'_>) -> Option<Self> {
        let waits = self.gate.poll_closed(cx).is_pending()
            && self.idle_since.elapsed() < IDLE_MAX
            && poll_ahead(&mut self.stream, cx).is_pending();
        waits.then_some(self)
    }

    /// Whether the kernel has heard of no end and no bytes. [`BackendSocket::waiting`] knows what
    /// the reactor has told; an end may have come since.
    pub fn is_open(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        rustix::net::recv(&self.stream, &mut [0; 1], flags).is_err_and(|error| error == Errno::AGAIN)
    }

    /// Until it has sent something; nothing at its end.
    pub async fn read(&mut self, client: &mut ClientSocket, clock: &mut Clock) -> Result<Received, Stop> {
        poll_fn(|cx| {
            if let Poll::Ready(stop) = self.gate.poll_closed(cx) {
                return Poll::Ready(Err(stop));
            }
            if let Poll::Ready(read) = poll_read(&mut self.stream, self.is_busy, cx) {
                self.is_busy = read.as_ref().is_ok_and(Received::is_full);
                return Poll::Ready(read.map_err(|_| Stop::Broken));
            }
            if client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Stop::Gone));
            }
            clock.poll(cx).map(|()| Err(Stop::TimedOut))
        })
        .await
    }

    /// Until it has taken everything.
    pub async fn write(
        &mut self,
        mut text: &[u8],
        client: &mut ClientSocket,
        clock: &mut Clock,
    ) -> Result<(), Stop> {
        let Self { stream, gate, .. } = self;
        let mut stalled = Stalled::default();
        poll_fn(|cx| {
            let stop = |cx: &mut Context<'_>| match gate.poll_closed(cx) {
                Poll::Pending if client.poll_gone(cx).is_ready() => Poll::Ready(Stop::Gone),
                Poll::Pending => clock.poll(cx).map(|()| Stop::TimedOut),
                closed => closed,
            };
            poll_write(stream, &mut text, cx, Stop::Broken, &mut stalled, stop)
        })
        .await
    }

    /// Until the client has taken everything, while the gate is open. It may be slow, and must take
    /// something now and then.
    pub async fn write_to(&mut self, client: &mut ClientSocket, mut text: &[u8]) -> Result<(), Stop> {
        let mut stalled = Stalled::default();
        poll_fn(|cx| {
            let stop = |cx: &mut Context<'_>| self.gate.poll_closed(cx);
            poll_write(&client.stream, &mut text, cx, Stop::Gone, &mut stalled, stop)
        })
        .await
    }
}

impl GateWatch {
    fn new(gate: &Arc<Gate>) -> Self {
        let watched = gate.clone();
        let closed = Box::pin(async move { drop(watched.closed().await) });
        Self { gate: gate.clone(), closed, is_registered: false }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        if !std::mem::replace(&mut self.is_registered, true) {
            let _why_tells = self.closed.as_mut().poll(cx);
        }
        self.gate.why().map_or(Poll::Pending, |why| Poll::Ready(Stop::Closed(why)))
    }
}

/// Until all of it is written, or `stop` says why it is not. `broken`: how that side's own end is
/// called.
fn poll_write(
    to: &TcpStream,
    text: &mut &[u8],
    cx: &mut Context<'_>,
    broken: Stop,
    stalled: &mut Stalled,
    mut stop: impl FnMut(&mut Context<'_>) -> Poll<Stop>,
) -> Poll<Result<(), Stop>> {
    loop {
        let left = text.len();
        match write_now(to, text) {
            Ok(true) => {
                stalled.moved(to);
                return Poll::Ready(Ok(()));
            }
            Ok(false) if text.len() < left => stalled.moved(to),
            Ok(false) => {}
            Err(_) => return Poll::Ready(Err(broken)),
        }
        if let Poll::Ready(stop) = stop(cx) {
            return Poll::Ready(Err(stop));
        }
        if to.poll_write_ready(cx).is_pending() {
            return stalled.poll(to, cx).map(|_| Err(broken));
        }
    }
}

/// How much there is to read, up to one byte. Without a call to the kernel, unless it has said that
/// there is something.
fn poll_ahead(stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    std::task::ready!(stream.poll_read_ready(cx))?;
    stream.poll_peek(cx, &mut ReadBuf::new(&mut [0]))
}

/// A buffer is borrowed only when there is something to read.
fn poll_read(stream: &mut TcpStream, is_busy: bool, cx: &mut Context<'_>) -> Poll<io::Result<Received>> {
    loop {
        std::task::ready!(stream.poll_read_ready(cx))?;
        let mut buffer = if is_busy { Buffer::borrow_large() } else { Buffer::borrow() };
        if let Some(length) = read_now(&mut *stream, cx, &mut buffer.0)? {
            return Poll::Ready(Ok(Received::Read(buffer, length)));
        }
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::spec::Protocol;

    use super::*;

    async fn idle(upstream: BackendSocket) -> Option<BackendSocket> {
        let mut upstream = Some(upstream);
        poll_fn(|cx| Poll::Ready(upstream.take().and_then(|one| one.waiting(cx)))).await
    }

    #[tokio::test]
    async fn an_end_is_seen_before_the_reactor_tells_of_it() {
        for is_reset in [false, true] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (peer, _) = listener.accept().unwrap();
            let port = Port { port: 1, protocol: Protocol::Http1 };
            let upstream = idle(BackendSocket::new(stream, &Gate::alone(), port)).await.unwrap();
            assert!(upstream.is_open());
            if is_reset {
                rustix::net::sockopt::set_socket_linger(&peer, Some(std::time::Duration::ZERO)).unwrap();
            }
            // Nothing is awaited from here on that would let the reactor look.
            drop(peer);
            let upstream = idle(upstream).await.expect("it is taken for open still");
            assert!(!upstream.is_open(), "reset: {is_reset}");
        }
    }
}
