//! The door: accepts client connections, bounds them, reads their heads in time, and closes them in
//! order.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jetway_service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{http1, http2};
use crate::accept::first_bytes::{Accepted, Acceptor, Http};
use crate::client::connection::{By, Connection, Taken};
use crate::client::streams::Streams;
use crate::drain::Drain;
use crate::io::workers::{Load, Workers};
use crate::limits::Limits;
use crate::limits::room;
use crate::limits::shares::ClientKey;
use crate::request::server::Server;
use crate::request::serving::Serving;
use crate::upstream::Dialer;

/// After a failed accept, as at the limit of open files: a pause, not a spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For the last closes to be told to the drones, and for the streams to close before the tunnels
/// do.
const LAST_WORD: Duration = Duration::from_millis(100);
/// A WebSocket's client that was told has this long to answer.
const GOODBYE_MAX: Duration = Duration::from_millis(500);
/// No connection comes in between if the kernel answers so soon.
const AT_ONCE: Duration = Duration::from_micros(5);
const QUESTIONS_MAX: u32 = 1000;

pub struct Listener {
    pub entrances: Vec<Entrance>,
    pub lifecycle: Lifecycle,
    pub drain: Arc<Drain>,
    pub limits: Limits,
    pub workers: Arc<Workers>,
    pub streams_stop: CancellationToken,
}

/// One listening address, and its door.
pub struct Entrance {
    pub listener: TcpListener,
    pub door: Arc<Door>,
}

/// Everything that each connection is given.
#[derive(Clone)]
pub struct Door {
    pub acceptor: Acceptor,
    pub server: Arc<Server>,
    pub dialer: Arc<Dialer>,
    pub lifecycle: Lifecycle,
    pub drain: Arc<Drain>,
    pub limits: Limits,
}

impl Listener {
    /// Serves until the process stops; then in order: `/ready` says no, no new connections,
    /// requests to their end, streams, tunnels.
    pub async fn run(self) {
        let (connections, limits) = (TaskTracker::new(), self.limits);
        let permits = Arc::new(Semaphore::new(limits.connections));
        let stopped_at = tokio::select! {
            _never = join_all(self.entrances.iter().map(|one| one.accept_all(&self.workers, &connections, &permits))) => Instant::now(),
            stopped_at = async {
                self.lifecycle.stopping().await;
                let stopped_at = Instant::now();
                sleep(limits.notice).await;
                stopped_at
            } => stopped_at,
        };
        self.drain.close();
        let Listener { entrances, drain, workers, streams_stop, .. } = self;
        for Entrance { listener, door } in entrances {
            for (stream, peer) in listener.into_std().map(close).unwrap_or_default() {
                door.admit(stream, peer, &workers, &connections, &permits);
            }
        }
        connections.close();
        if timeout(limits.drain, connections.wait()).await.is_err() {
            tracing::info!(connections = connections.len(), "closing connections with requests in flight");
        }
        let _none_left = timeout_at(stopped_at + limits.live, drain.tunnels.wait()).await;
        // Streams first: clients' closes have been told; our own from here on must not look like
        // it. The drone then gives the clients its grace to come back through the next proxy.
        sleep(LAST_WORD).await;
        streams_stop.cancel();
        sleep(LAST_WORD).await;
        drain.leave();
        let _all_have_left = timeout(limits.spread + GOODBYE_MAX, drain.tunnels.wait()).await;
        drain.cut();
    }
}

impl Entrance {
    async fn accept_all(&self, workers: &Workers, connections: &TaskTracker, permits: &Arc<Semaphore>) {
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(reason) => {
                    room::not_accepted(&reason);
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Without a reactor it is another thread's to have.
            if let Ok(stream) = stream.into_std() {
                self.door.admit(stream, peer, workers, connections, permits);
            }
        }
    }
}

/// Closes the socket, and returns the connections that have come before that: the close would reset
/// them. Between the kernel's "none" and the close another one may come: where that took long,
/// because other threads had their turn, the kernel is asked again.
fn close(listener: std::net::TcpListener) -> Vec<(std::net::TcpStream, SocketAddr)> {
    let (mut come, mut questions) = (Vec::new(), 0);
    loop {
        let asked = std::time::Instant::now();
        match listener.accept() {
            Ok(one) => come.push(one),
            Err(_) if asked.elapsed() > AT_ONCE && questions < QUESTIONS_MAX => questions += 1,
            Err(_none) => break,
        }
    }
    drop(listener);
    come
}

impl Door {
    fn admit(
        self: &Arc<Self>,
        mut stream: std::net::TcpStream,
        peer: SocketAddr,
        workers: &Workers,
        connections: &TaskTracker,
        permits: &Arc<Semaphore>,
    ) {
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            let _best_effort = stream.set_nonblocking(true).and_then(|()| stream.write_all(room::FULL));
            return;
        };
        let (door, in_use) = (self.clone(), connections.token());
        let (worker, load) = workers.next();
        let served = async move {
            match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                Ok(stream) => {
                    jetway_service::socket::prepare(&stream);
                    door.serve(stream, peer, (permit, load), in_use).await;
                }
                Err(reason) => tracing::warn!(%reason, "no connection taken over"),
            }
        };
        self.lifecycle.spawn_on(served, worker);
    }

    async fn serve(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        (permit, load): (OwnedSemaphorePermit, Load),
        in_use: TaskTrackerToken,
    ) {
        let clients = &self.server.allowances.clients;
        let share = |peer| ClientKey::of(peer).map_or(Ok(None), |client| clients.enter(client));
        let accepted = tokio::select! {
            accepted = self.acceptor.accept(stream, address, self.limits.head, share) => accepted,
            () = self.drain.last_chance() => return,
        };
        let Accepted { socket, peer, http, shown, place } = match accepted {
            Ok(accepted) => accepted,
            Err(reason) => {
                tracing::debug!(peer = %address, %reason, "a connection that nothing came of");
                return;
            }
        };
        let Ok(of_the_clients) = place else { return socket.refuse(room::SHARE_TAKEN) };
        let place = Taken { _of_all: permit, _of_the_clients: of_the_clients, _of_its_worker: load };
        let cut = CancellationToken::new();
        let streams = (http == Http::Two).then(|| Streams::new(cut.clone()));
        let (dialer, drain) = (self.dialer.clone(), self.drain.clone());
        let connection = Arc::new(Connection::new(
            By { peer, is_tls: socket.is_tls(), shown },
            dialer,
            drain,
            cut,
            place,
            streams,
        ));
        let (server, lifecycle, limits) = (self.server.clone(), self.lifecycle.clone(), self.limits);
        let serving = Serving { connection, server, lifecycle, limits, in_use };
        match http {
            Http::One => http1::serve(socket, serving).await,
            // The rarer one, and the larger: every connection's task would have its size.
            Http::Two => Box::pin(http2::serve(socket, serving)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::{Drones, Identity};
    use crate::limits::shares::{Allowances, Share};
    use crate::owners::Owners;
    use jetway_protocol::ids::{BootId, ProxyId};
    use jetway_service::client::Client;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::watch;

    /// A listener that knows no installation, and where it listens.
    async fn listening(lifecycle: &Lifecycle, limits: Limits) -> SocketAddr {
        let streams_stop = CancellationToken::new();
        let drain = Arc::new(Drain::new(limits.spread));
        let drones = Drones::new(Identity {
            proxy: ProxyId::random(),
            name: "p".into(),
            boot_id: BootId(uuid::Uuid::new_v4()),
            netns: "n".into(),
            bearer: "b".into(),
            controllers: Vec::new(),
            client: Client::new("b".into()),
            lifecycle: lifecycle.clone(),
            stop: streams_stop.clone(),
        });
        let known = watch::channel(None).1;
        let held = Semaphore::new(0);
        let (hold, root_redirect, body_pause) = (Duration::from_secs(1), None, None);
        let allowances = Arc::new(Allowances::new(Share::default(), Share::default()));
        let https = crate::request::server::Https::default();
        let brand = "".into();
        let (challenges, owners) = (None, Owners::start(Vec::new(), Client::new("b".into()), lifecycle));
        let server = Server {
            drones,
            known,
            owners,
            hold,
            root_redirect,
            held,
            allowances,
            body_pause,
            https,
            brand,
            challenges,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dialer = Arc::new(Dialer { lifecycle: lifecycle.clone(), bearer: "b".into() });
        let (server, lifecycle, acceptor) = (Arc::new(server), lifecycle.clone(), Acceptor::default());
        let door =
            Door { acceptor, server, dialer, lifecycle: lifecycle.clone(), drain: drain.clone(), limits };
        let workers = Arc::new(Workers::new(1).unwrap());
        let entrances = vec![Entrance { listener, door: Arc::new(door) }];
        let tasks = lifecycle.clone();
        lifecycle.spawn(Listener { entrances, lifecycle: tasks, drain, limits, workers, streams_stop }.run());
        address
    }

    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        timeout(Duration::from_secs(5), stream.read_to_string(&mut text))
            .await
            .expect("it is closed")
            .unwrap();
        text
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_in_time_ends_the_connection() {
        let lifecycle = Lifecycle::new();
        let limits = Limits { head: Duration::from_millis(100), ..Limits::default() };
        let address = listening(&lifecycle, limits).await;
        for begun in ["", "GET / HT"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let start = Instant::now();
            client.write_all(begun.as_bytes()).await.unwrap();
            rest(&mut client).await;
            assert!(start.elapsed() >= limits.head, "{begun:?}: {:?}", start.elapsed());
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /ready HTTP/1.1\r\nhost: h\r\n\r\nGET").await.unwrap();
        assert!(
            rest(&mut client).await.starts_with("HTTP/1.1 503"),
            "the first is answered, the second cut off"
        );
        assert!(lifecycle.stop().await);
    }

    #[tokio::test]
    async fn an_http_2_connection_without_requests_is_told_goodbye_and_one_that_does_not_listen_is_closed() {
        let lifecycle = Lifecycle::new();
        let limits = Limits { idle: Duration::from_millis(100), ..Limits::default() };
        let address = listening(&lifecycle, limits).await;
        let begun = Instant::now();
        let stream = TcpStream::connect(address).await.unwrap();
        let (_sender, connection) = h2::client::handshake(stream).await.unwrap();
        timeout(Duration::from_secs(5), connection).await.expect("a GOAWAY").unwrap();
        assert!(begun.elapsed() >= limits.idle);
        let mut deaf = TcpStream::connect(address).await.unwrap();
        deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut all = Vec::new();
        timeout(Duration::from_secs(5), deaf.read_to_end(&mut all)).await.expect("its end").unwrap();
        assert!(lifecycle.stop().await);
    }

    #[tokio::test]
    async fn one_connection_too_many_is_told_so() {
        let lifecycle = Lifecycle::new();
        let address = listening(&lifecycle, Limits { connections: 1, ..Limits::default() }).await;
        let first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let told = rest(&mut second).await;
        assert!(told.starts_with("HTTP/1.1 503") && told.contains("connection_limit_reached"), "{told}");
        drop((first, second));
        assert!(lifecycle.stop().await);
    }

    #[tokio::test]
    async fn one_request_too_many_that_would_wait_is_told_so() {
        let lifecycle = Lifecycle::new();
        let address = listening(&lifecycle, Limits::default()).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /token/ HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
        let told = rest(&mut client).await;
        assert!(told.starts_with("HTTP/1.1 503") && told.contains("\"code\":\"busy\""), "{told}");
        assert!(lifecycle.stop().await);
    }
}
