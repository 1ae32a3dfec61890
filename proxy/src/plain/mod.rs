//! Plain requests: HTTP/1.1 on both sides, with a body that has come in one piece with the head or
//! none, and with nothing in their heads that a rule of `headers` would change. Nearly all
//! requests of a page are plain. Such a head is looked through once and passed on as it came, ours
//! behind it, and so is its answer.
//!
//! At a session's host, one cookie that lets in is taken off (`on_host`).
//!
//! Whatever else a client sends is hyper's, from that request's first byte to the connection's end:
//! no request is acted on after two parsers. `request`, `on_host`, `answer`, `heads` and `chunks` are
//! pure, `sockets` has the two sockets, `exchange` one request.

pub mod answer;
pub mod chunks;
mod exchange;
mod heads;
pub mod on_host;
pub mod request;
mod sockets;

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use self::exchange::Outcome;
use self::on_host::Place;
use self::sockets::{BackendSocket, ClientSocket, Clock, Received};
use crate::io::buffers::Text;
use crate::io::socket::Socket;
use crate::request::serving::Serving;
use crate::route::hosts::{is_address, split_port};

/// The connection's next step.
pub enum Next {
    Over,
    /// It goes on with hyper.
    Hyper {
        socket: Socket,
        has_served: bool,
    },
}

/// Serves plain requests for as long as they come.
pub async fn serve(socket: Socket, serving: &Serving) -> Next {
    let (stream, left) = match socket.into_tcp() {
        Ok(parts) if !serving.server.moves(&serving.connection) => parts,
        Ok((stream, left)) => return Next::Hyper { socket: Socket::new(stream, left), has_served: false },
        Err(socket) => return Next::Hyper { socket, has_served: false },
    };
    tokio::select! {
        biased;
        next = Lane::new(stream, left, serving).run() => next,
        () = serving.connection.drain.is_cut() => Next::Over,
    }
}

/// One connection, as long as it is plain.
struct Lane<'a> {
    serving: &'a Serving,
    client: ClientSocket,
    /// That of the last request.
    upstream: Option<BackendSocket>,
    clock: Clock,
    has_served: bool,
}

impl<'a> Lane<'a> {
    fn new(stream: TcpStream, left: Bytes, serving: &'a Serving) -> Self {
        let clock = Clock::until(Instant::now() + serving.limits.head);
        Self { serving, client: ClientSocket::new(stream, left), upstream: None, clock, has_served: false }
    }

    async fn run(mut self) -> Next {
        let mut closing = self.serving.connection.drain.closing();
        loop {
            consume_budget().await;
            let came = match self.next(&mut closing).await {
                Ok(came) => came,
                Err(over) => return over,
            };
            let mut text = Text::borrow();
            let trusted = self.serving.connection.peer.trusted;
            let place_of = |host: &[u8]| self.place_of(host);
            let Some(head) = request::read(came.bytes(), trusted, place_of, &mut text.0) else {
                return self.hand_over(&came);
            };
            let next = Bytes::copy_from_slice(&came.bytes()[head.body.end..]);
            match self.serve(head, came, text).await {
                Outcome::Served => self.has_served = true,
                Outcome::Over => return Next::Over,
                Outcome::NotPlain(came) => return self.hand_over(&came),
            }
            if self.serving.connection.drain.is_closing() {
                return Next::Over;
            }
            self.client.left = next;
        }
    }

    fn place_of(&self, given: &[u8]) -> Place {
        let Serving { connection, server, .. } = self.serving;
        // One that is no name is refused later.
        let Ok(host) = connection.lone_host(given) else { return Place::Own };
        let known = server.known.borrow().clone();
        match known {
            None if is_address(split_port(&host).0) => Place::Own,
            None => Place::Unknown,
            Some(installation) => match connection.site(&installation, &host) {
                None => Place::Own,
                Some(site) => Place::Session { takes_paths: site.takes_paths() },
            },
        }
    }

    /// The client's next bytes. None: the process is ending, and hyper knows how connections
    /// end.
    async fn next(&mut self, closing: &mut (impl Future<Output = ()> + Unpin)) -> Result<Received, Next> {
        self.clock.set(Some(Instant::now() + self.serving.limits.head));
        let Self { client, upstream, clock, .. } = self;
        poll_fn(|cx| {
            *upstream = upstream.take().and_then(|idle| idle.waiting(cx));
            if let Poll::Ready(came) = client.poll_next(cx) {
                return Poll::Ready(came.ok_or(Next::Over));
            }
            if std::pin::Pin::new(&mut *closing).poll(cx).is_ready() {
                return Poll::Ready(Ok(Received::Left(Bytes::new())));
            }
            clock.poll(cx).map(|()| Err(Next::Over))
        })
        .await
    }

    fn hand_over(self, came: &Received) -> Next {
        let ahead = Bytes::copy_from_slice(came.bytes());
        Next::Hyper { socket: Socket::new(self.client.stream, ahead), has_served: self.has_served }
    }
}
