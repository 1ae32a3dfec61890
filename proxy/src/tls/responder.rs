//! The sockets of the DNS responder, and their rate limits. One task answers UDP questions one
//! after another, with no queue, no log line and no call. Beyond a second's budget, a question for
//! an order's answers gets a truncated answer, which sends the client to TCP, and any other
//! question gets none. TCP addresses cannot be forged: each client gets a few connections.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jetway_service::lifecycle::Lifecycle;
use jetway_service::lines::Lines;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::challenges::Challenges;
use super::dns::{Answer, QUESTION_BYTES_MAX};
use crate::limits::shares::{ClientKey, Share, Shares};
use crate::peer::forwarders::Peer;

/// UDP answers in a second: to one network; in all, with an order's answers, and without.
const PER_NETWORK: u32 = 50;
const SHOWN_MAX: u32 = 2000;
const OTHERS_MAX: u32 = 2000;
/// Truncated answers in a second: each is no longer than its question.
const ELSEWHERE_MAX: u32 = 20_000;
/// Counters of networks. Those that share one share its budget.
const COUNTERS: usize = 4096;
/// Leading bits of an address that name its network (RFC 6177 for IPv6).
const NETWORK_BITS: (u32, u32) = (24, 56);
/// Connections by TCP: in all, and of one client; how long one lives, and for how many questions.
const TCP_MAX: usize = 256;
const TCP_OF_A_CLIENT: u32 = 16;
const TCP_LIFE: Duration = Duration::from_secs(4);
const TCP_QUESTIONS: usize = 16;
/// After a failed accept or receive, so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(50);
static FAILURES: Lines = Lines::new(1, Duration::from_secs(60));
static FLOODS: Lines = Lines::new(1, Duration::from_secs(60));

/// Bound sockets that do not answer yet.
pub struct Responder {
    udp: UdpSocket,
    tcp: TcpListener,
    pub address: SocketAddr,
}

impl Responder {
    /// The same port for both. Port 0 picks one that is free for both.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let bound = tcp.local_addr()?;
        let udp = UdpSocket::bind(bound).await?;
        Ok(Self { udp, tcp, address: bound })
    }

    /// Answers until the process stops.
    pub fn start(self, challenges: Arc<Challenges>, lifecycle: &Lifecycle) {
        let Self { udp, tcp, .. } = self;
        let (known, tasks) = (challenges.clone(), lifecycle.clone());
        lifecycle.spawn_until_stopped(async move { by_udp(&udp, &known).await });
        lifecycle.spawn_until_stopped(async move { by_tcp(&tcp, &challenges, &tasks).await });
    }
}

async fn by_udp(socket: &UdpSocket, challenges: &Challenges) {
    // One byte more, so that a longer question is seen to be one.
    let mut buffer = [0; QUESTION_BYTES_MAX + 1];
    let mut budget = Budget::new(Instant::now());
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(reason) => {
                failed(&reason);
                sleep(PAUSE).await;
                continue;
            }
        };
        if length > QUESTION_BYTES_MAX {
            continue;
        }
        let Some(answer) = Answer::to(&buffer[..length], |host| challenges.by_dns(host)) else { continue };
        let bytes = match budget.verdict(Instant::now(), from.ip(), answer.is_shown()) {
            Verdict::Answer => answer.by_udp(),
            Verdict::Elsewhere => answer.elsewhere(),
            Verdict::Nothing => None,
        };
        if let Some(bytes) = bytes {
            // A full buffer or a forged address: a real client asks again.
            let _sent = socket.try_send_to(&bytes, from);
        }
    }
}

async fn by_tcp(listener: &TcpListener, challenges: &Arc<Challenges>, lifecycle: &Lifecycle) {
    let room = Arc::new(Semaphore::new(TCP_MAX));
    let share = Share { open: NonZeroU32::new(TCP_OF_A_CLIENT), per_second: None };
    let clients: Shares<ClientKey> = Shares::new(share);
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(reason) => {
                failed(&reason);
                sleep(PAUSE).await;
                continue;
            }
        };
        let client = ClientKey::of(Peer { address, trusted: false });
        let Some(Ok(place)) = client.map(|client| clients.enter(client)) else { continue };
        let challenges = challenges.clone();
        lifecycle.spawn_until_stopped(async move {
            let _broken_or_too_slow = timeout(TCP_LIFE, serve(stream, &challenges)).await;
            drop((permit, place));
        });
    }
}

async fn serve(mut stream: TcpStream, challenges: &Challenges) -> std::io::Result<()> {
    jetway_service::socket::prepare(&stream);
    let mut question = [0; QUESTION_BYTES_MAX];
    for _ in 0..TCP_QUESTIONS {
        let length = usize::from(stream.read_u16().await?);
        let Some(question) = question.get_mut(..length) else { return Ok(()) };
        stream.read_exact(question).await?;
        let answer = Answer::to(question, |host| challenges.by_dns(host));
        let Some(bytes) = answer.and_then(|answer| answer.by_tcp()) else { return Ok(()) };
        let Ok(length) = u16::try_from(bytes.len()) else { return Ok(()) };
        stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    }
    Ok(())
}

fn failed(reason: &std::io::Error) {
    if let Some(left_out) = FAILURES.tell() {
        tracing::warn!(%reason, left_out, "the DNS responder could not take a question");
    }
}

/// How a UDP question is answered.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Answer,
    Elsewhere,
    Nothing,
}

/// The answers given in this second.
struct Budget {
    began: Instant,
    /// Random in each process: a sender cannot choose the counter of another network.
    hashes: RandomState,
    networks: Vec<u32>,
    shown: u32,
    others: u32,
    elsewhere: u32,
    left_out: u64,
}

impl Budget {
    fn new(now: Instant) -> Self {
        let (hashes, networks) = (RandomState::new(), vec![0; COUNTERS]);
        Self { began: now, hashes, networks, shown: 0, others: 0, elsewhere: 0, left_out: 0 }
    }

    fn verdict(&mut self, now: Instant, from: IpAddr, is_shown: bool) -> Verdict {
        self.turn(now);
        let of_network = self.hashes.hash_one(network(from)) % COUNTERS as u64;
        let has_room = usize::try_from(of_network)
            .ok()
            .and_then(|which| self.networks.get_mut(which))
            .is_some_and(|count| take(count, PER_NETWORK));
        let (count, most) =
            if is_shown { (&mut self.shown, SHOWN_MAX) } else { (&mut self.others, OTHERS_MAX) };
        if has_room && take(count, most) {
            Verdict::Answer
        } else if is_shown && take(&mut self.elsewhere, ELSEWHERE_MAX) {
            Verdict::Elsewhere
        } else {
            self.left_out += 1;
            Verdict::Nothing
        }
    }

    /// A new second has a new budget.
    fn turn(&mut self, now: Instant) {
        if now.duration_since(self.began) < Duration::from_secs(1) {
            return;
        }
        if self.left_out > 0 && FLOODS.tell().is_some() {
            let (left_out, answered) = (self.left_out, self.shown + self.others);
            tracing::info!(left_out, answered, "the DNS responder left questions of one second unanswered");
        }
        self.networks.fill(0);
        (self.began, self.shown, self.others, self.elsewhere, self.left_out) = (now, 0, 0, 0, 0);
    }
}

fn take(count: &mut u32, most: u32) -> bool {
    let has_room = *count < most;
    *count += u32::from(has_room);
    has_room
}

fn network(address: IpAddr) -> u128 {
    let (bits4, bits6) = NETWORK_BITS;
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits() >> (u32::BITS - bits4)),
        IpAddr::V6(address) => address.to_bits() >> (u128::BITS - bits6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(budget: &mut Budget, now: Instant, is_shown: bool, from: impl Fn(u32) -> IpAddr) -> [usize; 3] {
        let mut counts = [0; 3];
        for number in 0..50_000 {
            match budget.verdict(now, from(number), is_shown) {
                Verdict::Answer => counts[0] += 1,
                Verdict::Elsewhere => counts[1] += 1,
                Verdict::Nothing => counts[2] += 1,
            }
        }
        counts
    }

    #[test]
    fn a_second_has_a_budget_for_a_network_and_for_all() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let mut budget = Budget::new(now);
        let one = |number: u32| IpAddr::from([192, 0, 2, u8::try_from(number % 256).unwrap()]);
        let many = |number: u32| IpAddr::V4(number.wrapping_mul(2_654_435_761).into());
        assert_eq!(count(&mut budget, now, false, one), [50, 0, 49_950]);
        // Other questions do not use up the budget of an order's answers.
        assert_eq!(count(&mut budget, now, false, many)[0], 1950);
        let shown = count(&mut budget, now, true, many);
        assert_eq!((shown[0], shown[1]), (2000, 20_000));
        let after = now + second;
        assert_eq!(count(&mut budget, after, true, one), [50, 20_000, 29_950]);
        assert_eq!(budget.networks.len(), COUNTERS, "whoever comes, nothing grows");
    }

    #[test]
    fn an_address_is_of_its_network() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("192.0.2.1"), network("192.0.2.255"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.7"));
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert_eq!(network("2001:db8:0:1::"), network("2001:db8:0:ff::1"));
        assert_ne!(network("2001:db8::"), network("2001:db8:0:100::"));
    }
}
