//! When is the application ready: which listening sockets count, how often to look, and what to say when it listens
//! where nobody can reach it. Asking the kernel is `sock_diag`'s business, and `procfs`' where that is refused.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::sock_diag::SockDiag;
use crate::{procfs, sock_diag};

/// An application usually listens within this; until then it is looked for every [`INTERVAL_MIN`].
const EAGER: Duration = Duration::from_secs(2);
const INTERVAL_MIN: Duration = Duration::from_millis(1);
/// Then more and more seldom, down to this.
const INTERVAL_MAX: Duration = Duration::from_millis(50);
/// Between two looks through `/proc`, each of which can take 20 ms on a large host.
const INTERVAL_MIN_PROCFS: Duration = Duration::from_millis(25);
/// So long the same sockets must listen elsewhere before that is told: many programs open several, one by one.
const SETTLED: Duration = Duration::from_millis(100);
/// Places that one message names, at most.
const PLACES_MAX: usize = 64;

/// A TCP socket in the state LISTEN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    /// Whether an IPv6 socket takes no IPv4; unknown where `/proc` was read.
    pub ipv6_only: Option<bool>,
    pub inode: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    Ready(SocketAddr),
    /// Told once for each new set.
    Elsewhere(Vec<SocketAddr>),
}

/// The search for one application's listener. It ends, and costs nothing more, when it is dropped.
pub struct Search {
    source: Source,
    wanted: Wanted,
    /// What listened before the application was started is not the application: the engine's own name server, for
    /// one, listens in every container of a user-defined network.
    before: Vec<u32>,
    elsewhere: Elsewhere,
    since: Instant,
    next: Instant,
}

impl Search {
    /// Call it before the application is started.
    pub fn before(port: u16, addresses: &[IpAddr], now: Instant) -> Self {
        let wanted = Wanted { port, addresses: addresses.to_vec() };
        let mut source = Source::open();
        let before = source.listeners().iter().map(|listener| listener.inode).collect();
        let (elsewhere, next) = (Elsewhere::default(), now + INTERVAL_MIN);
        Self { source, wanted, before, elsewhere, since: now, next }
    }

    pub fn next(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time to.
    pub fn look(&mut self, now: Instant) -> Option<Finding> {
        if now < self.next {
            return None;
        }
        let mut listeners = self.source.listeners();
        listeners.retain(|listener| !self.before.contains(&listener.inode));
        let least = if matches!(self.source, Source::Procfs) { INTERVAL_MIN_PROCFS } else { INTERVAL_MIN };
        self.next = Instant::now() + interval(now - self.since).max(least);
        if let Some(found) = listeners.iter().find(|listener| self.wanted.counts(listener)) {
            return Some(Finding::Ready(canonical(found.address)));
        }
        let places = listeners.iter().map(|listener| canonical(listener.address)).collect();
        self.elsewhere.observe(places, now).map(Finding::Elsewhere)
    }

    /// Nobody on a new connection has heard what was told on the last one.
    pub fn tell_again(&mut self) {
        self.elsewhere.told.clear();
    }
}

/// Where listeners are read; goes over to `/proc` for good when the kernel refuses the quick way.
enum Source {
    SockDiag(SockDiag),
    Procfs,
}

impl Source {
    fn open() -> Self {
        SockDiag::open().map_or(Self::Procfs, Self::SockDiag)
    }

    fn listeners(&mut self) -> Vec<Listener> {
        if let Self::SockDiag(socket) = self {
            match socket.listeners() {
                Ok(listeners) => return listeners,
                Err(sock_diag::Refused) => *self = Self::Procfs,
            }
        }
        procfs::listeners()
    }
}

/// Where a listener must be to count.
struct Wanted {
    port: u16,
    addresses: Vec<IpAddr>,
}

impl Wanted {
    fn counts(&self, listener: &Listener) -> bool {
        let address = listener.address.ip().to_canonical();
        let mut own = self.addresses.iter().map(IpAddr::to_canonical);
        if listener.address.port() != self.port {
            return false;
        }
        if !address.is_unspecified() {
            return own.any(|own| own == address);
        }
        // The wildcard of IPv6 alone cannot be reached where every address is one of IPv4.
        let only_ipv4 = !self.addresses.is_empty() && own.all(|own| own.is_ipv4());
        !(address.is_ipv6() && listener.ipv6_only == Some(true) && only_ipv4)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The pause before the next look, by the time since the start.
fn interval(elapsed: Duration) -> Duration {
    if elapsed < EAGER { INTERVAL_MIN } else { (elapsed / 400).min(INTERVAL_MAX) }
}

/// Tells a set of places once, when it has stayed the same for a while.
#[derive(Default)]
struct Elsewhere {
    seen: Option<(Vec<SocketAddr>, Instant)>,
    told: Vec<SocketAddr>,
}

impl Elsewhere {
    fn observe(&mut self, mut places: Vec<SocketAddr>, now: Instant) -> Option<Vec<SocketAddr>> {
        places.sort_unstable();
        places.dedup();
        places.truncate(PLACES_MAX);
        match &self.seen {
            Some((seen, since)) if *seen == places => {
                if places.is_empty() || places == self.told || now - *since < SETTLED {
                    return None;
                }
                self.told.clone_from(&places);
                Some(places)
            }
            _ => {
                self.seen = Some((places, now));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_listeners_count() {
        let check = |address: &str, ipv6_only: Option<bool>, own: &[&str], expect: bool| {
            let listener = Listener { address: address.parse().unwrap(), ipv6_only, inode: 1 };
            let addresses = own.iter().map(|own| own.parse().unwrap()).collect();
            let wanted = Wanted { port: 8080, addresses };
            assert_eq!(wanted.counts(&listener), expect, "{address} {ipv6_only:?} of {own:?}");
        };
        let ipv4 = &["10.64.0.2"][..];
        check("0.0.0.0:8080", None, ipv4, true);
        check("0.0.0.0:8080", None, &[], true);
        check("0.0.0.0:8081", None, ipv4, false);
        check("127.0.0.1:8080", None, ipv4, false);
        check("[::1]:8080", Some(false), ipv4, false);
        check("10.64.0.2:8080", None, ipv4, true);
        check("10.64.0.3:8080", None, ipv4, false);
        check("[::ffff:10.64.0.2]:8080", Some(false), ipv4, true);
        check("10.64.0.2:8080", None, &["::ffff:10.64.0.2"], true);
        check("[::ffff:0.0.0.0]:8080", Some(false), ipv4, true);
        check("[::ffff:127.0.0.1]:8080", Some(false), ipv4, false);
        check("[::]:8080", Some(false), ipv4, true);
        check("[::]:8080", None, ipv4, true);
        check("[::]:8080", Some(true), ipv4, false);
        check("[::]:8080", Some(true), &["10.64.0.2", "fd00::2"], true);
        check("[::]:8080", Some(true), &[], true);
        check("[fd00::2]:8080", Some(true), &["fd00::2"], true);
    }

    #[test]
    fn looks_are_frequent_first_and_then_ever_rarer() {
        let check = |ms, expect_us| {
            assert_eq!(interval(Duration::from_millis(ms)), Duration::from_micros(expect_us));
        };
        check(0, 1_000);
        check(1_999, 1_000);
        check(2_000, 5_000);
        check(10_000, 25_000);
        check(20_000, 50_000);
        check(600_000, 50_000);
    }

    #[test]
    fn elsewhere_is_told_once_when_it_has_settled() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let places = |list: &[&str]| list.iter().map(|place| place.parse().unwrap()).collect::<Vec<_>>();
        let (one, two) = (places(&["127.0.0.1:1"]), places(&["127.0.0.1:1", "127.0.0.1:2"]));
        let mut elsewhere = Elsewhere::default();
        assert_eq!(elsewhere.observe(vec![], at(0)), None);
        assert_eq!(elsewhere.observe(vec![], at(500)), None, "nowhere is not elsewhere");
        assert_eq!(elsewhere.observe(one.clone(), at(501)), None);
        assert_eq!(elsewhere.observe(two.clone(), at(550)), None, "it changed, so it is not settled");
        assert_eq!(elsewhere.observe(two.clone(), at(640)), None);
        assert_eq!(elsewhere.observe(two.iter().rev().copied().collect(), at(650)), Some(two.clone()));
        assert_eq!(elsewhere.observe(two.clone(), at(900)), None, "told already");
        assert_eq!(elsewhere.observe(one.clone(), at(901)), None);
        assert_eq!(elsewhere.observe(one.clone(), at(1001)), Some(one));
    }
}
