//! Which address a session's container gets: the one that was not used for longest, and never one that a proxy might
//! still dial for the session that had it before. Pure: the caller says what time it is; nothing here knows an engine.
//!
//! An address comes back only when each proxy that was told of it has acknowledged the end, or has been without a
//! stream for long enough ([`is_silent`]), after which it dials nothing on it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::Ipv4Addr;

use jetway_protocol::attach::is_silent;
use jetway_protocol::ids::{BackendId, FencingToken, ProxyId};
use jetway_protocol::status::End;
use tokio::time::Instant;

use crate::runtime::Subnet;

#[derive(Debug)]
pub struct AddressBook {
    subnet: Subnet,
    /// Offset in the subnet of the next address that this agent has not given yet.
    cursor: u32,
    /// How many offsets the cursor has not visited since the start.
    fresh: u32,
    returned: VecDeque<Ipv4Addr>,
    /// The same as a set: an adopted container's address comes back before the cursor has visited it.
    resting: HashSet<Ipv4Addr>,
    taken: HashSet<Ipv4Addr>,
    cooling: Vec<Cooling>,
    /// Proxies with a stream: only they, and the silent ones, can still dial anything.
    attached: HashSet<ProxyId>,
    /// Proxies without a stream, and when they lost it.
    lost: HashMap<ProxyId, Instant>,
}

#[derive(Debug)]
struct Cooling {
    address: Ipv4Addr,
    ended: Ended,
    /// Proxies that have not said that they saw the end.
    waiting_for: HashSet<ProxyId>,
    ended_at: Instant,
    /// What had it is still to be removed.
    is_occupied: bool,
}

/// What a proxy must be told about an address that it may not use any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub backend: BackendId,
    pub fencing_token: FencingToken,
    pub end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every address of the drone's network is taken")]
pub struct NoAddress;

impl AddressBook {
    /// `cursor`: where the agent before this one stood, so that a restart does not begin with the addresses used last.
    pub fn new(subnet: Subnet, cursor: u32) -> Self {
        let size = size(subnet);
        Self {
            subnet,
            cursor: cursor % size.max(1),
            fresh: size,
            returned: VecDeque::new(),
            resting: HashSet::new(),
            taken: HashSet::new(),
            cooling: Vec::new(),
            attached: HashSet::new(),
            lost: HashMap::new(),
        }
    }

    pub fn cursor(&self) -> u32 {
        self.cursor
    }

    /// An adopted container has it.
    pub fn mark_taken(&mut self, address: Ipv4Addr) {
        self.taken.insert(address);
    }

    pub fn take(&mut self, now: Instant) -> Result<Ipv4Addr, NoAddress> {
        self.give_back_what_is_cold(now);
        while self.fresh > 0 {
            let address = Ipv4Addr::from(u32::from(self.subnet.network).wrapping_add(self.cursor));
            self.cursor = (self.cursor + 1) % size(self.subnet).max(1);
            self.fresh -= 1;
            if self.usable(address) && !self.resting.contains(&address) && self.taken.insert(address) {
                return Ok(address);
            }
        }
        let address = self.returned.pop_front().ok_or(NoAddress)?;
        self.resting.remove(&address);
        self.taken.insert(address);
        Ok(address)
    }

    /// Nobody was ever told of it, and what had it is gone.
    pub fn give_back(&mut self, address: Ipv4Addr) {
        if self.taken.remove(&address) {
            self.resting.insert(address);
            self.returned.push_back(address);
        }
    }

    /// The backend has ended; `told` are the proxies that may know its address. Those that went away for good long ago
    /// will never say that they saw the end, and need not. It is not given again before it was [`AddressBook::vacated`].
    pub fn release(&mut self, address: Ipv4Addr, ended: Ended, mut told: HashSet<ProxyId>, now: Instant) {
        told.retain(|proxy| self.attached.contains(proxy) || self.lost.contains_key(proxy));
        let (waiting_for, ended_at) = (told, now);
        self.cooling.push(Cooling { address, ended, waiting_for, ended_at, is_occupied: true });
    }

    /// Nothing that had this released address is there any more.
    pub fn vacated(&mut self, address: Ipv4Addr) {
        for cooling in self.cooling.iter_mut().filter(|cooling| cooling.address == address) {
            cooling.is_occupied = false;
        }
    }

    pub fn end_seen(&mut self, proxy: ProxyId, backend: &BackendId, fencing_token: FencingToken) {
        for cooling in &mut self.cooling {
            if cooling.ended.backend == *backend && cooling.ended.fencing_token == fencing_token {
                cooling.waiting_for.remove(&proxy);
            }
        }
    }

    pub fn stream_lost(&mut self, proxy: ProxyId, now: Instant) {
        self.attached.remove(&proxy);
        self.lost.insert(proxy, now);
    }

    /// The proxy is there. Where it is back before it was silent for long enough, what it has not acknowledged must be
    /// said again.
    pub fn stream_back(&mut self, proxy: ProxyId) -> Vec<Ended> {
        self.attached.insert(proxy);
        self.lost.remove(&proxy);
        let unseen = self.cooling.iter().filter(|cooling| cooling.waiting_for.contains(&proxy));
        unseen.map(|cooling| cooling.ended.clone()).collect()
    }

    fn usable(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.subnet.network));
        offset > 0 && offset + 1 < size(self.subnet) && address != self.subnet.gateway
    }

    fn give_back_what_is_cold(&mut self, now: Instant) {
        let is_silent_since = |at: Instant| is_silent(now.saturating_duration_since(at));
        for (proxy, _) in self.lost.extract_if(|_, lost_at| is_silent_since(*lost_at)) {
            for cooling in &mut self.cooling {
                cooling.waiting_for.remove(&proxy);
            }
        }
        let is_cold = |cooling: &Cooling| {
            !cooling.is_occupied && cooling.waiting_for.is_empty() && is_silent_since(cooling.ended_at)
        };
        let cold: Vec<_> = self.cooling.extract_if(.., |cooling| is_cold(cooling)).collect();
        cold.into_iter().for_each(|cooling| self.give_back(cooling.address));
    }
}

fn size(subnet: Subnet) -> u32 {
    1u32.checked_shl(32 - u32::from(subnet.prefix.clamp(1, 32))).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jetway_protocol::status::EndReason;
    use uuid::Uuid;

    use super::*;

    fn book() -> AddressBook {
        let network = Ipv4Addr::new(10, 64, 0, 0);
        AddressBook::new(Subnet { network, prefix: 29, gateway: Ipv4Addr::new(10, 64, 0, 1) }, 0)
    }

    fn ended(name: &str) -> Ended {
        let end = End {
            reason: EndReason::Idle,
            kind: None,
            exit_code: None,
            oom_killed: false,
            message: String::new(),
            output: String::new(),
        };
        Ended { backend: name.parse().unwrap(), fencing_token: FencingToken(1), end }
    }

    impl AddressBook {
        fn vacated_release(&mut self, address: Ipv4Addr, ended: Ended, told: HashSet<ProxyId>, now: Instant) {
            self.release(address, ended, told, now);
            self.vacated(address);
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_once_and_never_the_reserved_ones() {
        let (mut book, now) = (book(), Instant::now());
        let given: Vec<u8> =
            std::iter::from_fn(|| book.take(now).ok()).map(|address| address.octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn least_recently_used_comes_first() {
        let (mut book, now) = (book(), Instant::now());
        let given: Vec<_> = (0..5).map(|_| book.take(now).unwrap()).collect();
        book.vacated_release(given[3], ended("b"), HashSet::new(), now);
        book.vacated_release(given[0], ended("a"), HashSet::new(), now);
        assert_eq!(book.take(now), Err(NoAddress), "still cooling");
        assert_eq!(book.take(now + seconds(8)), Ok(given[3]));
        assert_eq!(book.take(now + seconds(8)), Ok(given[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_had_it_must_be_gone_first() {
        let (mut book, now) = (book(), Instant::now());
        let given: Vec<_> = (0..5).map(|_| book.take(now).unwrap()).collect();
        book.release(given[0], ended("a"), HashSet::new(), now);
        assert_eq!(book.take(now + seconds(1000)), Err(NoAddress));
        book.vacated(given[0]);
        assert_eq!(book.take(now + seconds(1000)), Ok(given[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_every_proxys_word_or_silence() {
        let (mut book, now) = (book(), Instant::now());
        let given: Vec<_> = (0..5).map(|_| book.take(now).unwrap()).collect();
        let (one, two) = (ProxyId(Uuid::from_u128(1)), ProxyId(Uuid::from_u128(2)));
        assert!(book.stream_back(one).is_empty() && book.stream_back(two).is_empty());
        book.vacated_release(given[0], ended("a"), HashSet::from([one, two]), now);
        book.end_seen(one, &"a".parse().unwrap(), FencingToken(1));
        assert_eq!(book.take(now + seconds(1000)), Err(NoAddress), "the second has not said so");
        book.stream_lost(two, now + seconds(1000));
        assert_eq!(book.take(now + seconds(1005)), Err(NoAddress), "not silent for long enough");
        assert_eq!(book.stream_back(two), [ended("a")], "it is told again");
        assert_eq!(book.take(now + seconds(2000)), Err(NoAddress));
        book.stream_lost(two, now + seconds(2000));
        assert_eq!(book.take(now + seconds(2008)), Ok(given[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_restarted_while_the_session_lived_is_not_waited_for() {
        let (mut book, now) = (book(), Instant::now());
        let given: Vec<_> = (0..5).map(|_| book.take(now).unwrap()).collect();
        let (before, after) = (ProxyId(Uuid::from_u128(1)), ProxyId(Uuid::from_u128(2)));
        book.stream_back(before);
        book.stream_lost(before, now);
        book.stream_back(after);
        assert_eq!(book.take(now + seconds(60)), Err(NoAddress));
        book.vacated_release(given[0], ended("a"), HashSet::from([before, after]), now + seconds(60));
        book.end_seen(after, &"a".parse().unwrap(), FencingToken(1));
        assert_eq!(book.take(now + seconds(67)), Err(NoAddress));
        assert_eq!(book.take(now + seconds(68)), Ok(given[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_adopted_address_that_came_back_is_not_given_twice() {
        let (mut book, now) = (book(), Instant::now());
        let adopted = Ipv4Addr::new(10, 64, 0, 4);
        book.mark_taken(adopted);
        book.vacated_release(adopted, ended("a"), HashSet::new(), now);
        let later = now + seconds(8);
        let given: Vec<u8> =
            std::iter::from_fn(|| book.take(later).ok()).map(|address| address.octets()[3]).collect();
        assert_eq!(given, [2, 3, 5, 6, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_was_told_of_comes_back_at_once() {
        let (mut book, now) = (book(), Instant::now());
        let given: Vec<_> = (0..5).map(|_| book.take(now).unwrap()).collect();
        for _ in 0..2 {
            book.give_back(given[1]);
        }
        assert_eq!(book.take(now), Ok(given[1]));
        assert_eq!(book.take(now), Err(NoAddress));
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_goes_on_where_the_last_agent_stood() {
        let now = Instant::now();
        let subnet = book().subnet;
        let mut book = AddressBook::new(subnet, 4);
        book.mark_taken(Ipv4Addr::new(10, 64, 0, 5));
        assert_eq!(book.take(now).unwrap().octets()[3], 4);
        assert_eq!(book.take(now).unwrap().octets()[3], 6);
        assert_eq!(book.take(now).unwrap().octets()[3], 2);
    }
}
