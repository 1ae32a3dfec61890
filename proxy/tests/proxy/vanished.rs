//! Clients that vanish without a word while data flows to them, and those that only pause: the
//! first must not count as connected for long, the second must not be taken for the first.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jetway_protocol::ids::BackendId;
use jetway_service::socket::{Patience, set_patience};
use rustix::net::sockopt;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::backends::{next_head, raw};
use crate::http2_client::{Http2, head, next, request};
use crate::play::{Play, Stage};
use crate::raw::Raw;

const PATIENCE: Patience = Patience { gone: Duration::from_secs(2), unread: Duration::from_secs(8) };
/// For the drone to be told, and for what lingers.
const MARGIN: Duration = Duration::from_secs(3);

/// More than is ever sent.
const ENDLESS: usize = 1 << 60;

/// The plain lane, hyper's, and a tunnel.
const WAYS: [&str; 3] = ["x-lane: plain", "te: deflate", "connection: upgrade\r\nupgrade: chat"];

/// Another host, played by a network namespace at the other end of a cable.
struct Elsewhere {
    name: String,
    here: Ipv4Addr,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap_or_else(|error| panic!("ip: {error}; scripts/setup --test installs it"));
    assert!(output.status.success(), "ip {arguments}, as root: {output:?}");
}

impl Elsewhere {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let [_, _, high, low] = (process * 4).to_be_bytes();
        let at = |host: u8| Ipv4Addr::new(10, 213, high, low | host);
        let (name, here, there) = (format!("jwv{process}-{number}"), at(1), at(2));
        ip(&format!("netns add {name}"));
        let made = Self { name: name.clone(), here };
        ip(&format!("link add {name} type veth peer name wan netns {name}"));
        ip(&format!("addr add {here}/30 dev {name}"));
        ip(&format!("link set {name} up"));
        ip(&format!("-n {name} addr add {there}/30 dev wan"));
        ip(&format!("-n {name} link set wan up"));
        made
    }

    async fn connect(&self, port: u16) -> Raw {
        let (namespace, to) = (format!("/run/netns/{}", self.name), SocketAddr::new(self.here.into(), port));
        let stream = std::thread::spawn(move || {
            let namespace = std::fs::File::open(namespace).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let stream = std::net::TcpStream::connect(to).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        });
        Raw { stream: TcpStream::from_std(stream.join().unwrap()).unwrap(), buffer: Vec::new() }
    }

    /// The cable is pulled: nothing comes back from there, not even a reset.
    fn vanish(&self) {
        ip(&format!("-n {} link set wan down", self.name));
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // The other end goes with it; the namespace stays until its last socket is gone.
        let _already_gone = Command::new("ip").args(["link", "delete", &self.name]).status();
        let _already_gone = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Whatever it is asked, it sends pieces of so many bytes without end, or until so many were sent.
async fn source(play: &Play, piece: usize, pause: Duration, total: usize) -> (BackendId, String) {
    let address = raw(&play.lifecycle, move |mut raw: Raw| async move {
        let Some(asked) = next_head(&mut raw).await else { return };
        let begun = match asked.contains("upgrade: chat") {
            true => {
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n".to_owned()
            }
            false => format!("HTTP/1.1 200 OK\r\ncontent-length: {total}\r\n\r\n"),
        };
        raw.send(begun.as_bytes()).await;
        let (bytes, mut sent) = (vec![7; piece], 0);
        while sent < total && raw.stream.write_all(&bytes[..piece.min(total - sent)]).await.is_ok() {
            sent += piece;
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
        let _until_it_is_closed = raw.stream.read(&mut [0]).await;
    })
    .await;
    play.ready_backend(address)
}

fn is_used(play: &Play, backend: &BackendId) -> bool {
    play.drone.uses(backend).last().is_none_or(|(_, told)| told.uses > 0)
}

/// How long it is used on, and no longer than so long.
async fn used_for(play: &Play, backend: &BackendId, longest: Duration) -> Duration {
    let begun = Instant::now();
    while is_used(play, backend) {
        assert!(begun.elapsed() < longest, "it counts as used for longer than {longest:?}");
        sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_client_that_vanishes_while_data_flows_is_gone_soon() {
    set_patience(PATIENCE);
    for (piece, pause) in [(64 * 1024, Duration::from_millis(2)), (200, Duration::from_millis(20))] {
        for way in WAYS {
            let play = Stage { listen: "0.0.0.0:0", ..Stage::default() }.begin().await;
            let (backend, token) = source(&play, piece, pause, ENDLESS).await;
            let elsewhere = Elsewhere::new();
            let mut client = elsewhere.connect(play.proxy.address.port()).await;
            client.send_get(&format!("/{token}/"), &[way]).await;
            client.head().await;
            client.take(50 * piece.min(1000)).await;
            assert!(is_used(&play, &backend));
            // It reads on, so that its window is open.
            let mut some = vec![0; 64 * 1024];
            let reads = async { while client.stream.read(&mut some).await.is_ok_and(|read| read > 0) {} };
            let vanishes = async {
                sleep(Duration::from_millis(200)).await;
                elsewhere.vanish();
                used_for(&play, &backend, PATIENCE.gone + MARGIN).await
            };
            tokio::select! {
                () = reads => panic!("nothing ends it there"),
                took = vanishes => println!("figure: vanished, pieces of {piece}, {way:?}: used on for {took:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_http_2_client_that_vanishes_is_gone_as_soon() {
    set_patience(PATIENCE);
    let play = Stage { listen: "0.0.0.0:0", ..Stage::default() }.begin().await;
    let (backend, token) = source(&play, 64 * 1024, Duration::from_millis(2), ENDLESS).await;
    let elsewhere = Elsewhere::new();
    let stream = elsewhere.connect(play.proxy.address.port()).await.stream;
    let mut client = Http2::over(stream).await;
    let (answer, _) = client.start(request(http::Method::GET, &format!("/{token}/")), true).await;
    let mut body = head(answer).await.unwrap().into_body();
    for _ in 0..50 {
        next(&mut body).await.unwrap().unwrap();
    }
    // It goes on reading, so that it is not the stream's window that is waited for.
    let reads = async { while next(&mut body).await.is_some() {} };
    let vanishes = async {
        sleep(Duration::from_millis(200)).await;
        elsewhere.vanish();
        used_for(&play, &backend, PATIENCE.gone + MARGIN).await
    };
    tokio::select! {
        () = reads => panic!("nothing ends it there"),
        took = vanishes => println!("figure: vanished, HTTP/2: used on for {took:?}"),
    }
}

#[tokio::test]
async fn a_client_that_pauses_gets_the_rest() {
    const TOTAL_BYTES: usize = 64 * 1024 * 1024;
    set_patience(PATIENCE);
    for way in WAYS {
        let play = Play::new().await;
        let (backend, token) = source(&play, 64 * 1024, Duration::ZERO, TOTAL_BYTES).await;
        let mut client = Raw::connect(play.proxy.address).await;
        client.send_get(&format!("/{token}/"), &[way]).await;
        client.head().await;
        sleep(PATIENCE.gone * 2).await;
        assert!(is_used(&play, &backend), "{way}");
        let mut rest = vec![0; TOTAL_BYTES - client.buffer.len()];
        let read = timeout(Duration::from_secs(10), client.stream.read_exact(&mut rest)).await;
        read.expect("in time").unwrap_or_else(|error| panic!("{way}: {error}"));
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_not_waited_for_for_ever() {
    set_patience(PATIENCE);
    for way in WAYS {
        let play = Play::new().await;
        let (backend, token) = source(&play, 64 * 1024, Duration::ZERO, ENDLESS).await;
        let mut client = Raw::connect(play.proxy.address).await;
        client.send_get(&format!("/{token}/"), &[way]).await;
        client.head().await;
        let took = used_for(&play, &backend, PATIENCE.unread + MARGIN).await;
        assert!(took > PATIENCE.unread - PATIENCE.gone, "{way}: {took:?}");
    }
}

/// The timeouts of this process's connections that lead to `peer`.
fn timeouts_of_those_to(peer: SocketAddr) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let number: i32 = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        // SAFETY: it is only asked for what it is, and an answer of another descriptor's is none.
        let socket = unsafe { BorrowedFd::borrow_raw(number) };
        let leads = rustix::net::getpeername(socket).ok().flatten();
        let leads = leads.and_then(|address| SocketAddr::try_from(address).ok());
        if leads == Some(peer) {
            found.push(sockopt::tcp_user_timeout(socket).unwrap());
        }
    }
    found
}

#[tokio::test]
async fn connections_on_both_sides_have_the_timeout() {
    for way in WAYS {
        let play = Play::new().await;
        let (backend, token) = source(&play, 200, Duration::from_millis(20), ENDLESS).await;
        let jetway_protocol::attach::Outcome::Ready(entry) = play.drone.outcome(&backend) else { panic!() };
        let mut client = Raw::connect(play.proxy.address).await;
        client.send_get(&format!("/{token}/"), &[way]).await;
        client.head().await;
        for (side, peer) in [
            ("the client's", client.stream.local_addr().unwrap()),
            ("the backend's", entry.address),
            ("the attach stream", play.drone.address),
        ] {
            assert_eq!(timeouts_of_those_to(peer), [120_000], "{side}, {way}");
        }
    }
}
