//! Shares of a proxy: how much one client and one token may have open, and how often they may ask.
//! A client is an IPv4 address, or the 64 bits of an IPv6 address that name its network (RFC 4291
//! §2.5.4). A trusted forwarder has no share, because it speaks for others. Without a number there
//! is no limit.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use jetway_protocol::ids::{FencingToken, GrantId};
use jetway_service::backoff::jittered;
use tokio::time::sleep;

use crate::peer::forwarders::Peer;

const NETWORK_BITS: u32 = 64;
/// Between sweeps of clients and tokens that have asked for nothing lately.
const SWEEP: Duration = Duration::from_secs(60);

/// For one client, or one token.
#[derive(Debug, Clone, Copy, Default)]
pub struct Share {
    /// Open at a time: a client's connections, a token's WebSockets and requests.
    pub open: Option<NonZeroU32>,
    /// Requests; as many may come at once.
    pub per_second: Option<NonZeroU32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey(IpAddr);

/// One grant of one run of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenKey(pub FencingToken, pub GrantId);

#[derive(Debug)]
pub struct Allowances {
    pub clients: Shares<ClientKey>,
    pub tokens: Shares<TokenKey>,
}

pub struct Shares<K: Hash + Eq + Copy> {
    open_max: Option<u32>,
    open: Arc<DashMap<K, u32>>,
    rate: Option<DefaultKeyedRateLimiter<K>>,
}

/// Why a client or a token gets nothing more for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It has as much open as it may.
    TooManyOpen,
    /// It has asked as often as it may; it may again after so long.
    TooManyRequests(Duration),
}

/// One of those that may be open.
#[derive(Debug)]
pub struct OpenPermit<K: Hash + Eq + Copy> {
    open: Arc<DashMap<K, u32>>,
    key: K,
}

impl ClientKey {
    /// `None`: it speaks for others.
    pub fn of(peer: Peer) -> Option<Self> {
        (!peer.trusted).then(|| Self::at(peer.address.ip()))
    }

    /// That of the client for whom a forwarder speaks, where it says so in its list of them.
    pub fn behind(peer: Peer, forwarded_for: Option<&str>) -> Option<Self> {
        let last = forwarded_for.and_then(|all| all.rsplit(',').next());
        Self::of(peer).or_else(|| last?.trim().parse().ok().map(Self::at))
    }

    fn at(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() >> NETWORK_BITS << NETWORK_BITS).into()
            }
        })
    }
}

impl Allowances {
    pub fn new(client: Share, token: Share) -> Self {
        Self { clients: Shares::new(client), tokens: Shares::new(token) }
    }

    /// For ever: forgets clients and tokens that have their whole share again.
    pub async fn sweep(&self) {
        loop {
            sleep(jittered(SWEEP)).await;
            self.clients.sweep();
            self.tokens.sweep();
        }
    }
}

impl<K: Hash + Eq + Copy> fmt::Debug for Shares<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("open_max", &self.open_max).finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Copy> Shares<K> {
    pub fn new(share: Share) -> Self {
        let rate = share.per_second.map(|count| RateLimiter::keyed(Quota::per_second(count)));
        Self { open_max: share.open.map(NonZeroU32::get), open: Arc::default(), rate }
    }

    /// `Ok(None)`: there is no limit.
    pub fn enter(&self, key: K) -> Result<Option<OpenPermit<K>>, Refused> {
        let Some(max) = self.open_max else { return Ok(None) };
        match self.open.entry(key) {
            Entry::Occupied(open) if *open.get() >= max => return Err(Refused::TooManyOpen),
            Entry::Occupied(mut open) => *open.get_mut() += 1,
            Entry::Vacant(none) => drop(none.insert(1)),
        }
        Ok(Some(OpenPermit { open: self.open.clone(), key }))
    }

    pub fn ask(&self, key: K) -> Result<(), Refused> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.check_key(&key)
            .map_err(|until| Refused::TooManyRequests(until.wait_time_from(DefaultClock::default().now())))
    }

    fn sweep(&self) {
        if let Some(rate) = &self.rate {
            rate.retain_recent();
            rate.shrink_to_fit();
        }
    }
}

impl<K: Hash + Eq + Copy> Drop for OpenPermit<K> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut open) = self.open.entry(self.key) {
            match open.get().checked_sub(1) {
                None | Some(0) => drop(open.remove()),
                Some(left) => *open.get_mut() = left,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(open: u32, per_second: u32) -> Shares<u8> {
        Shares::new(Share { open: NonZeroU32::new(open), per_second: NonZeroU32::new(per_second) })
    }

    #[test]
    fn so_many_at_a_time_each() {
        let shares = of(2, 0);
        let first = shares.enter(1).unwrap();
        let _second = shares.enter(1).unwrap();
        assert_eq!(shares.enter(1).err(), Some(Refused::TooManyOpen));
        let other = shares.enter(2).unwrap();
        drop(first);
        let _again = shares.enter(1).unwrap();
        assert_eq!(shares.enter(1).err(), Some(Refused::TooManyOpen));
        drop(other);
        assert_eq!(shares.open.len(), 1, "who has nothing open is not remembered");
    }

    #[test]
    fn so_many_a_second_each() {
        let shares = of(0, 5);
        let asked = |key| (0..100).take_while(|_| shares.ask(key).is_ok()).count();
        assert!((5..=6).contains(&asked(1)), "the clock goes on meanwhile");
        let refused = (0..100).find_map(|_| shares.ask(1).err());
        let Some(Refused::TooManyRequests(wait)) = refused else { panic!("{refused:?}") };
        assert!(wait <= Duration::from_millis(200), "{wait:?}");
        assert!(asked(2) >= 5);
    }

    #[test]
    fn without_numbers_nobody_is_counted() {
        let shares = of(0, 0);
        assert!(
            (0..1000).all(|_| shares.ask(1).is_ok() && shares.enter(1).is_ok_and(|place| place.is_none()))
        );
    }

    #[test]
    fn who_is_one_client() {
        let of = |address: &str, trusted| ClientKey::of(Peer { address: address.parse().unwrap(), trusted });
        assert_eq!(of("192.0.2.7:1", false), of("192.0.2.7:2", false));
        assert_ne!(of("192.0.2.7:1", false), of("192.0.2.8:1", false));
        assert_eq!(of("[2001:db8::1]:1", false), of("[2001:db8:0:0:ffff::]:1", false));
        assert_ne!(of("[2001:db8::1]:1", false), of("[2001:db8:0:1::1]:1", false));
        assert_eq!(of("192.0.2.7:1", true), None);
        let behind = |trusted, said: Option<&str>| {
            ClientKey::behind(Peer { address: "192.0.2.7:1".parse().unwrap(), trusted }, said)
        };
        assert_eq!(behind(true, Some("10.0.0.1, 192.0.2.9")), of("192.0.2.9:1", false));
        assert_eq!(behind(false, Some("192.0.2.9")), of("192.0.2.7:1", false), "others say it of themselves");
        assert_eq!((behind(true, None), behind(true, Some("unknown"))), (None, None));
    }
}
