//! Which fault comes when, from a seed: the same seed gives the same schedule. Pure; what a fault does is `driver.rs`'s
//! business.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::places::{CONTROLLERS, DRONES, Host, PROXIES, Part};
use crate::pools::{Change, Tier};

/// So many faults at one time, at most: with more, every path would be excused all the time.
pub const AT_ONCE_MAX: usize = 3;
/// Between the beginnings of two faults.
const GAP_MS: (u64, u64) = (700, 3500);
const LENGTH_MS: (u64, u64) = (200, 4500);
/// Of what is done to messages: there are only a few a second.
const MESSAGES_LENGTH_MS: (u64, u64) = (3000, 9000);
/// One of so many faults is so long that a lease runs out, where that is possible.
const LONG_ONE_IN: u64 = 6;
/// The longest, as parts of ten of the lease's length.
const LONG_TENTHS: (u64, u64) = (8, 20);

/// A small generator (splitmix64): what comes from a seed is the same for ever.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn one_in(&mut self, parts: u64) -> bool {
        self.below(parts) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap_or(0)]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// SIGKILL, and started again after the fault's length.
    Kill(Part),
    /// SIGTERM, and started again.
    Restart(Part),
    /// SIGSTOP, then SIGCONT.
    Pause(Part),
    /// Both directions of a host's link, or one.
    Cut(Host),
    CutIn(Host),
    CutOut(Host),
    /// Only the way between two hosts.
    CutPair(Host, Host),
    /// A third of the packets is lost.
    Lossy(Host),
    /// Each message between a drone and the controllers is late.
    Delay(u8),
    /// Each message between a drone and the controllers arrives twice, the second time late and in any order.
    Duplicate(u8),
    /// Messages between a drone and the controllers arrive in another order than they were sent in.
    Reorder(u8),
    /// Half of the answers between a drone and the controllers never arrive.
    LoseReplies(u8),
    /// Every connection between two hosts is reset.
    Reset(Host, Host),
    /// SIGKILL of a drone's agent while sessions start that may get a slot, and started again.
    KillAmidClaims(u8),
    /// Containers that wait for their session, in the moment in which somebody asks for one.
    KillSlots(u8),
    /// SIGSTOP of the init of a container that waits, then SIGCONT.
    FreezeInit(u8),
    /// The same of an application that runs ahead of its session.
    FreezeHot(u8),
    /// SIGKILL of the init of a container that waits, in the moment in which it executes its application.
    KillAtExec(u8),
    /// Every connection to Postgres falls silent, and new ones reach it.
    Vanish,
    /// A standby takes over that has not heard of what was committed during the fault's length. Then `CompareTwice`.
    FailOver(u8),
    /// The controllers compare what this drone has at the same time.
    CompareTwice(u8),
    /// A warm pool is something else for a while.
    Pool(Change, Tier),
}

impl Fault {
    /// By what faults are counted.
    pub fn kind(self) -> String {
        match self {
            Self::Kill(part) => format!("kill {}", part.class()),
            Self::Restart(part) => format!("restart {}", part.class()),
            Self::Pause(part) => format!("pause {}", part.class()),
            Self::Cut(_) => "cut both ways".to_owned(),
            Self::CutIn(_) => "cut inwards".to_owned(),
            Self::CutOut(_) => "cut outwards".to_owned(),
            Self::CutPair(..) => "cut a pair".to_owned(),
            Self::Lossy(_) => "lose packets".to_owned(),
            Self::Delay(_) => "delay messages".to_owned(),
            Self::Duplicate(_) => "duplicate messages".to_owned(),
            Self::Reorder(_) => "reorder messages".to_owned(),
            Self::LoseReplies(_) => "lose replies".to_owned(),
            Self::Reset(..) => "reset connections".to_owned(),
            Self::KillAmidClaims(_) => "kill drone amid claims".to_owned(),
            Self::KillSlots(_) => "kill slots".to_owned(),
            Self::FreezeInit(_) => "freeze a slot's init".to_owned(),
            Self::FreezeHot(_) => "freeze a hot application".to_owned(),
            Self::KillAtExec(_) => "kill an init at its exec".to_owned(),
            Self::Vanish => "vanish postgres".to_owned(),
            Self::FailOver(_) => "fail over, losing commits".to_owned(),
            Self::CompareTwice(_) => "compare twice at once".to_owned(),
            Self::Pool(Change::Size, _) => "a pool of another size".to_owned(),
            Self::Pool(Change::Image, _) => "a pool of another image".to_owned(),
            Self::Pool(Change::Again, _) => "a pool deleted and put again".to_owned(),
            Self::Pool(Change::Tag, _) => "a pool's tag moved".to_owned(),
        }
    }

    /// What only one fault can hold at one time.
    pub fn holds(self) -> String {
        match self {
            Self::Kill(part) | Self::Restart(part) | Self::Pause(part) => part.to_string(),
            Self::KillAmidClaims(drone) => Part::Drone(drone).to_string(),
            Self::Vanish | Self::FailOver(_) => Part::Postgres.to_string(),
            Self::KillSlots(drone)
            | Self::FreezeInit(drone)
            | Self::FreezeHot(drone)
            | Self::KillAtExec(drone) => {
                format!("slots {drone}")
            }
            // The tag is both pools'.
            Self::Pool(..) => "pools".to_owned(),
            Self::Cut(host) | Self::CutIn(host) | Self::CutOut(host) | Self::Lossy(host) => {
                format!("link {host}")
            }
            Self::CutPair(one, other) | Self::Reset(one, other) => format!("pair {one} {other}"),
            Self::Delay(drone)
            | Self::Duplicate(drone)
            | Self::Reorder(drone)
            | Self::LoseReplies(drone)
            | Self::CompareTwice(drone) => format!("messages {drone}"),
        }
    }

    /// Whether it is done to the messages between a drone and the controllers.
    pub fn is_of_messages(self) -> bool {
        match self {
            Self::Delay(_) | Self::Duplicate(_) | Self::Reorder(_) | Self::LoseReplies(_) => true,
            Self::Kill(_)
            | Self::Restart(_)
            | Self::Pause(_)
            | Self::Cut(_)
            | Self::CutIn(_)
            | Self::CutOut(_)
            | Self::CutPair(..)
            | Self::Lossy(_)
            | Self::Reset(..)
            | Self::KillAmidClaims(_)
            | Self::KillSlots(_)
            | Self::FreezeInit(_)
            | Self::FreezeHot(_)
            | Self::KillAtExec(_)
            | Self::Vanish
            | Self::FailOver(_)
            | Self::CompareTwice(_)
            | Self::Pool(..) => false,
        }
    }

    /// Whether it is worth outlasting a lease.
    fn may_be_long(self) -> bool {
        match self {
            Self::Kill(part) | Self::Pause(part) => {
                matches!(part, Part::Drone(_) | Part::Controller(_) | Part::Postgres)
            }
            Self::Cut(host) | Self::CutIn(host) | Self::CutOut(host) => {
                matches!(host, Host::Drone(_) | Host::Postgres)
            }
            Self::LoseReplies(_) | Self::KillAmidClaims(_) => true,
            Self::Restart(_)
            | Self::CutPair(..)
            | Self::Lossy(_)
            | Self::Delay(_)
            | Self::Duplicate(_)
            | Self::Reorder(_)
            | Self::Reset(..)
            | Self::KillSlots(_)
            | Self::FreezeInit(_)
            | Self::FreezeHot(_)
            | Self::KillAtExec(_)
            | Self::Vanish
            | Self::FailOver(_)
            | Self::CompareTwice(_)
            | Self::Pool(..) => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = match self {
            Self::Kill(part) | Self::Restart(part) | Self::Pause(part) => part.to_string(),
            Self::Cut(host) | Self::CutIn(host) | Self::CutOut(host) | Self::Lossy(host) => host.to_string(),
            Self::CutPair(one, other) | Self::Reset(one, other) => format!("{one}-{other}"),
            Self::Delay(drone)
            | Self::Duplicate(drone)
            | Self::Reorder(drone)
            | Self::LoseReplies(drone)
            | Self::KillAmidClaims(drone)
            | Self::KillSlots(drone)
            | Self::FreezeInit(drone)
            | Self::FreezeHot(drone)
            | Self::KillAtExec(drone)
            | Self::FailOver(drone)
            | Self::CompareTwice(drone) => format!("d{drone}"),
            Self::Vanish => Part::Postgres.to_string(),
            Self::Pool(_, tier) => tier.pool().to_owned(),
        };
        write!(f, "{} ({on})", self.kind())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    pub at: Duration,
    pub fault: Fault,
    pub length: Duration,
}

/// One of each kind, with a target at random.
fn deck(dice: &mut Dice) -> Vec<Fault> {
    let classes = |dice: &mut Dice| {
        [
            Part::Controller(1 + small(dice, CONTROLLERS)),
            Part::Drone(1 + small(dice, DRONES)),
            Part::Proxy(1 + small(dice, PROXIES)),
            Part::Postgres,
            Part::Engine(1 + small(dice, DRONES)),
        ]
    };
    let mut deck = Vec::new();
    for kind in [Fault::Kill, Fault::Restart, Fault::Pause] {
        deck.extend(classes(dice).map(kind));
    }
    let hosts = Host::all();
    for kind in [Fault::Cut, Fault::CutIn, Fault::CutOut, Fault::Lossy] {
        deck.push(kind(dice.pick(&hosts)));
    }
    for kind in [Fault::CutPair, Fault::Reset] {
        let (one, other) = pair(dice);
        deck.push(kind(one, other));
    }
    for kind in [Fault::Delay, Fault::Duplicate, Fault::Reorder, Fault::LoseReplies] {
        deck.push(kind(1 + small(dice, DRONES)));
    }
    for kind in [
        Fault::KillAmidClaims,
        Fault::KillSlots,
        Fault::FreezeInit,
        Fault::FreezeHot,
        Fault::KillAtExec,
        Fault::FailOver,
    ] {
        deck.push(kind(1 + small(dice, DRONES)));
    }
    for change in [Change::Size, Change::Image, Change::Again, Change::Tag] {
        deck.push(Fault::Pool(change, dice.pick(&Tier::BOTH)));
    }
    deck.push(Fault::Vanish);
    for last in (1..deck.len()).rev() {
        deck.swap(last, usize::try_from(dice.below(last as u64 + 1)).unwrap_or(0));
    }
    deck
}

fn small(dice: &mut Dice, end: u8) -> u8 {
    u8::try_from(dice.below(u64::from(end))).unwrap_or(0)
}

/// Two hosts that talk to each other.
fn pair(dice: &mut Dice) -> (Host, Host) {
    let controller = Host::Controller(1 + small(dice, CONTROLLERS));
    let drone = Host::Drone(1 + small(dice, DRONES));
    match dice.below(4) {
        0 => (controller, Host::Postgres),
        1 => (Host::Proxy2, drone),
        2 => (Host::Proxy2, controller),
        _ => (drone, controller),
    }
}

/// Every fault that begins within `run`.
pub fn schedule(seed: u64, run: Duration, lease: Duration) -> Vec<Planned> {
    let mut dice = Dice::new(seed);
    let (mut planned, mut left): (Vec<Planned>, VecDeque<Fault>) = (Vec::new(), VecDeque::new());
    let mut at = Duration::from_millis(dice.between(GAP_MS));
    loop {
        if left.is_empty() {
            left.extend(deck(&mut dice));
        }
        let long = dice.one_in(LONG_ONE_IN);
        let under_way: Vec<_> = planned.iter().filter(|other| other.at + other.length > at).collect();
        let free = |fault: &Fault| under_way.iter().all(|other| other.fault.holds() != fault.holds());
        let Some(place) = left.iter().position(free).filter(|_| under_way.len() < AT_ONCE_MAX) else {
            at = under_way.iter().map(|other| other.at + other.length).min().unwrap_or(at)
                + Duration::from_millis(1);
            continue;
        };
        let Some(fault) = left.remove(place) else { continue };
        let length = if long && fault.may_be_long() {
            lease * u32::try_from(dice.between(LONG_TENTHS)).unwrap_or(10) / 10
        } else {
            let usual = if fault.is_of_messages() { MESSAGES_LENGTH_MS } else { LENGTH_MS };
            Duration::from_millis(dice.between(usual))
        };
        if at >= run {
            return planned;
        }
        planned.push(Planned { at, fault, length });
        at += Duration::from_millis(dice.between(GAP_MS));
    }
}

pub fn by_kind(faults: impl Iterator<Item = Fault>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for fault in faults {
        *counts.entry(fault.kind()).or_default() += 1;
    }
    counts
}

/// Same seed, same schedule; every kind comes; never too much at one time.
pub fn self_test() -> anyhow::Result<()> {
    let lease = Duration::from_secs(12);
    let one = schedule(7, Duration::from_secs(600), lease);
    anyhow::ensure!(one == schedule(7, Duration::from_secs(600), lease), "a seed gives two schedules");
    anyhow::ensure!(one != schedule(8, Duration::from_secs(600), lease), "two seeds give one schedule");
    let counts = by_kind(one.iter().map(|planned| planned.fault));
    anyhow::ensure!(counts.len() == 36 && counts.values().all(|count| *count >= 5), "{counts:?}");
    for planned in &one {
        let under_way =
            one.iter().filter(|other| other.at <= planned.at && planned.at < other.at + other.length);
        anyhow::ensure!(under_way.count() <= AT_ONCE_MAX, "too much at {:?}", planned.at);
    }
    Ok(())
}
