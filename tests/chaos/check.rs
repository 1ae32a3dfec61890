//! The checker: what sessions wrote, what Postgres knows, what was done to them and what clients saw, and which of it
//! must not be. Pure.

use std::collections::HashMap;

use jetway_protocol::lease::LeaseTerms;

use crate::beats::Beats;
use crate::places::{Host, Part};
use crate::schedule::Fault;
use crate::seen::{Done, Dropped, Hung, Inner, Refused, SECOND, Wish, at};
use crate::verdicts::{end, ends_sessions};

/// A process of a session, as it wrote of itself, and the drone whose host it was on.
#[derive(Debug, Clone)]
pub struct Session {
    pub drone: u8,
    pub beats: Beats,
}

/// What the API says of a backend.
#[derive(Debug, Clone)]
pub struct Row {
    pub status: String,
    pub end_reason: String,
    pub drone: Option<u8>,
}

pub struct Facts {
    pub start: u64,
    /// None where the controllers know no leases: then no isolation ends a session.
    pub terms: Option<LeaseTerms>,
    pub sessions: Vec<Session>,
    pub rows: HashMap<String, Row>,
    pub seen: Inner,
}

#[derive(Debug, Default)]
pub struct Findings {
    pub overlaps: Vec<String>,
    pub lost: Vec<String>,
    pub hung: Vec<String>,
}

pub fn check(facts: &Facts) -> Findings {
    let mut findings = Findings { overlaps: one_process_per_key(facts), ..Findings::default() };
    findings.overlaps.extend(tokens_grow(facts));
    findings.overlaps.extend(facts.seen.strangers.iter().cloned());
    findings.lost.extend(facts.sessions.iter().filter_map(|session| end(facts, session).err()));
    findings.lost.extend(facts.seen.dropped.iter().filter_map(|dropped| drop_fault(facts, dropped)));
    findings.lost.extend(facts.seen.refused.iter().filter_map(|refused| refusal(facts, refused)));
    findings.lost.extend(facts.seen.broken.iter().cloned());
    findings.hung.extend(facts.seen.hung.iter().filter_map(|hung| hang(facts, hung)));
    findings
}

pub fn describe(facts: &Facts, session: &Session) -> String {
    let Beats { key, backend, fence, first, last, told_to_stop, gap_max, .. } = &session.beats;
    let told = if *told_to_stop == 0 {
        String::new()
    } else {
        format!(", told to stop {}", at(facts.start, *told_to_stop))
    };
    format!(
        "{key} {backend} fence {fence} on d{} [{} .. {}{told}, longest gap {} ms]",
        session.drone,
        at(facts.start, *first),
        at(facts.start, *last),
        gap_max / 1_000_000
    )
}

fn by_key(facts: &Facts) -> HashMap<&str, Vec<&Session>> {
    let mut by_key: HashMap<&str, Vec<&Session>> = HashMap::new();
    for session in &facts.sessions {
        by_key.entry(&session.beats.key).or_default().push(session);
    }
    for sessions in by_key.values_mut() {
        sessions.sort_by_key(|session| session.beats.first);
    }
    by_key
}

fn one_process_per_key(facts: &Facts) -> Vec<String> {
    let mut overlaps = Vec::new();
    for sessions in by_key(facts).into_values() {
        for (place, one) in sessions.iter().enumerate() {
            let others = sessions[place + 1..].iter().take_while(|other| other.beats.first <= one.beats.last);
            overlaps
                .extend(others.map(|other| {
                    format!("overlap: {} and {}", describe(facts, one), describe(facts, other))
                }));
        }
    }
    overlaps
}

fn tokens_grow(facts: &Facts) -> Vec<String> {
    let mut faults = Vec::new();
    for sessions in by_key(facts).into_values() {
        faults.extend(sessions.windows(2).filter(|pair| pair[1].beats.fence <= pair[0].beats.fence).map(
            |pair| format!("token: {} came after {}", describe(facts, pair[1]), describe(facts, pair[0])),
        ));
    }
    faults
}

/// How long a fault's consequences go on after its end: a connection that was cut is missed later, and waits for a
/// retransmission as long as the cut again.
pub fn tail(done: &Done) -> u64 {
    match done.fault {
        Fault::Kill(_) | Fault::Restart(_) | Fault::Reset(..) => 3 * SECOND,
        Fault::Pause(_)
        | Fault::Cut(_)
        | Fault::CutIn(_)
        | Fault::CutOut(_)
        | Fault::CutPair(..)
        | Fault::Lossy(_)
        | Fault::Delay(_)
        | Fault::Duplicate(_)
        | Fault::LoseReplies(_) => 5 * SECOND + done.to.saturating_sub(done.from),
    }
}

fn touches_host(fault: Fault, host: Host) -> bool {
    match fault {
        Fault::Cut(cut) | Fault::CutIn(cut) | Fault::CutOut(cut) | Fault::Lossy(cut) => cut == host,
        Fault::CutPair(one, other) | Fault::Reset(one, other) => one == host || other == host,
        _ => false,
    }
}

pub fn touches_part(fault: Fault, part: Part) -> bool {
    match fault {
        Fault::Kill(hit) | Fault::Restart(hit) | Fault::Pause(hit) => hit == part,
        Fault::Delay(drone) | Fault::Duplicate(drone) | Fault::LoseReplies(drone) => {
            part == Part::Drone(drone)
        }
        _ => touches_host(fault, part.host()),
    }
}

/// Whether a fault lies on the way from a client through a proxy to a session on a drone's host.
fn on_path(fault: Fault, proxy: u8, drone: u8) -> bool {
    let (proxy, host) = (Part::Proxy(proxy), Host::Drone(drone));
    let direct = proxy.host() == host;
    match fault {
        Fault::Kill(part) | Fault::Restart(part) => {
            part == proxy || ends_sessions(part, drone) || (part == Part::Drone(drone) && !direct)
        }
        Fault::Pause(part) => part == proxy || (part == Part::Drone(drone) && !direct),
        Fault::Cut(cut) | Fault::CutIn(cut) | Fault::CutOut(cut) | Fault::Lossy(cut) => {
            cut == proxy.host() || cut == host
        }
        Fault::CutPair(one, other) | Fault::Reset(one, other) => {
            [(one, other), (other, one)].contains(&(proxy.host(), host))
        }
        Fault::Delay(_) | Fault::Duplicate(_) | Fault::LoseReplies(_) => false,
    }
}

/// Whether such a fault was at work, or had just been, at some time between the two.
pub fn was_at_work(facts: &Facts, from: u64, to: u64, is: impl Fn(Fault) -> bool) -> bool {
    facts.seen.faults.iter().any(|done| is(done.fault) && done.from <= to && from <= done.to + tail(done))
}

fn sessions_of<'f>(facts: &'f Facts, backend: &str) -> impl Iterator<Item = &'f Session> {
    facts.sessions.iter().filter(move |session| session.beats.backend == backend)
}

/// A WebSocket that dropped with no fault on its way. One that dropped because its session ended is the session's matter,
/// except that nobody who is connected is idle.
fn drop_fault(facts: &Facts, dropped: &Dropped) -> Option<String> {
    let said = |drone: &str| {
        let (open, at) = (at(facts.start, dropped.opened), at(facts.start, dropped.at));
        let reason = facts.rows.get(&dropped.backend).map_or("no row", |row| row.end_reason.as_str());
        format!(
            "dropped: a WebSocket of {} on {drone} through proxy{}, opened {open}, dropped {at}: {} (the session: {reason})",
            dropped.backend, dropped.proxy, dropped.how
        )
    };
    let Some(session) = sessions_of(facts, &dropped.backend).next() else {
        return Some(said("an unknown drone"));
    };
    let drone = session.drone;
    let ended = session.beats.last <= dropped.at + SECOND;
    let idle = facts.rows.get(&dropped.backend).is_some_and(|row| row.end_reason == "idle");
    // Its last visitor is gone the moment it leaves as it was asked to; "idle" may be faster then than its own word.
    let left =
        [Wish::Exit, Wish::Stop].iter().any(|wish| was_asked(facts, &dropped.backend, *wish, dropped.at));
    let excused = (ended && (!idle || left))
        || was_at_work(facts, dropped.at, dropped.at, |fault| on_path(fault, dropped.proxy, drone));
    (!excused).then(|| said(&format!("d{drone}")))
}

/// A request that had no answer by its deadline, although nothing was done to whom it was sent.
fn hang(facts: &Facts, hung: &Hung) -> Option<String> {
    let drone =
        hung.backend.as_deref().and_then(|backend| sessions_of(facts, backend).next()).map(|it| it.drone);
    let excused = was_at_work(facts, hung.from, hung.at, |fault| {
        let on_the_way = match (hung.to, drone) {
            (Part::Proxy(proxy), Some(drone)) => on_path(fault, proxy, drone),
            _ => false,
        };
        on_the_way || touches_part(fault, hung.to)
    });
    (!excused).then(|| {
        let (from, until) = (at(facts.start, hung.from), at(facts.start, hung.at));
        format!("hung: {} to {}, {from} to {until}", hung.what, hung.to)
    })
}

/// Nobody is turned away because of what happens elsewhere.
fn refusal(facts: &Facts, refused: &Refused) -> Option<String> {
    let stopped =
        [Wish::Exit, Wish::Stop].iter().any(|wish| was_asked(facts, &refused.backend, *wish, refused.at));
    let drone = facts.rows.get(&refused.backend).and_then(|row| row.drone);
    let excused = drone.is_some_and(|drone| {
        was_at_work(facts, refused.from, refused.at, |fault| {
            refused.unconfirmed
                || touches_part(fault, Part::Drone(drone))
                || touches_part(fault, Part::Engine(drone))
        })
    });
    let excused = excused || stopped;
    (!excused).then(|| {
        let (from, until) = (at(facts.start, refused.from), at(facts.start, refused.at));
        let reason = facts.rows.get(&refused.backend).map_or("no row", |row| row.end_reason.as_str());
        format!(
            "refused: {} {}, {from} to {until} (drone {drone:?}, the session: {reason})",
            refused.backend, refused.what
        )
    })
}

/// Whether somebody had asked for this before it was so.
pub fn was_asked(facts: &Facts, backend: &str, wish: Wish, until: u64) -> bool {
    facts.seen.asked.iter().any(|asked| asked.backend == backend && asked.wish == wish && asked.at <= until)
}

/// The part of the run in which a WebSocket on this way would have had no excuse to drop.
pub fn without_excuse(facts: &Facts, until: u64, proxy: u8, drone: u8) -> f64 {
    let times: Vec<_> = (facts.start..until).step_by(usize::try_from(SECOND / 10).unwrap_or(1)).collect();
    let held =
        times.iter().filter(|time| !was_at_work(facts, **time, **time, |fault| on_path(fault, proxy, drone)));
    #[expect(clippy::cast_precision_loss, reason = "for a human's eyes")]
    let part = held.count() as f64 / times.len().max(1) as f64;
    part
}
