//! The checker: what sessions wrote, what Postgres knows, what was done to them and what clients saw, and which of it
//! must not be. Pure.

use std::collections::{BTreeMap, HashMap};

use jetway_protocol::lease::LeaseTerms;

use crate::beats::Beats;
use crate::seen::{Inner, at};
use crate::verdicts::end;
use crate::ways::{drop_fault, hang, not_in_order, refusal, turned_away};

/// A process of a session, as it wrote of itself, and the drone whose host it was on.
#[derive(Debug, Clone)]
pub struct Session {
    pub drone: u8,
    /// The engine's id of the container that it wrote from.
    pub container: String,
    pub beats: Beats,
}

/// What the API says of a backend.
#[derive(Debug, Clone)]
pub struct Row {
    pub status: String,
    pub end_reason: String,
    pub message: String,
    pub drone: Option<u8>,
    /// What its start was given: hot, parked, sandbox, cold, or nothing that is known.
    pub tier: String,
}

pub struct Facts {
    pub start: u64,
    pub terms: LeaseTerms,
    pub sessions: Vec<Session>,
    pub rows: HashMap<String, Row>,
    /// Why each backend ended, as its drone has written down.
    pub words: HashMap<String, String>,
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
    findings.overlaps.extend(one_start_per_backend(facts));
    findings.overlaps.extend(one_session_per_container(facts));
    findings.overlaps.extend(requests_once(facts));
    findings.overlaps.extend(facts.seen.strangers.iter().cloned());
    findings.lost.extend(facts.sessions.iter().filter_map(|session| end(facts, session).err()));
    findings.lost.extend(facts.seen.dropped.iter().filter_map(|dropped| drop_fault(facts, dropped)));
    findings.lost.extend(facts.seen.refused.iter().filter_map(|refused| refusal(facts, refused)));
    findings.lost.extend(facts.seen.turned_away.iter().filter_map(|away| turned_away(facts, away)));
    findings.lost.extend(facts.seen.unclean.iter().filter_map(|unclean| not_in_order(facts, unclean)));
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

/// Two processes of a key that wrote of the same moment; or one that found its key's lock held. The lock is the word on a
/// process that was killed: between its last beat and its end it wrote nothing, for as long as its own longest gap.
fn one_process_per_key(facts: &Facts) -> Vec<String> {
    let mut overlaps = Vec::new();
    for sessions in by_key(facts).into_values() {
        for (place, one) in sessions.iter().enumerate() {
            let others = sessions[place + 1..].iter().take_while(|other| other.beats.first <= one.beats.last);
            overlaps
                .extend(others.map(|other| {
                    format!("overlap: {} and {}", describe(facts, one), describe(facts, other))
                }));
            let beats_of_another =
                sessions[..place].iter().any(|before| one.beats.first <= before.beats.last);
            if one.beats.beside != 0 && !beats_of_another {
                let before = sessions[..place].iter().max_by_key(|before| before.beats.last);
                let before = before.map_or("none that wrote".to_owned(), |before| describe(facts, before));
                overlaps.push(format!(
                    "overlap: {} found its key held; before it there was {before}",
                    describe(facts, one)
                ));
            }
        }
    }
    overlaps
}

/// A request with a body is carried out once at most, and once where its answer came.
fn requests_once(facts: &Facts) -> Vec<String> {
    let answered = |backend: &str| facts.seen.posted.get(backend).copied().unwrap_or(0);
    let wrong = facts
        .sessions
        .iter()
        .filter(|Session { beats, .. }| beats.again > 0 || beats.posts < answered(&beats.backend));
    wrong
        .map(|session| {
            let Beats { backend, posts, again, .. } = &session.beats;
            let (who, answered) = (describe(facts, session), answered(backend));
            format!("requests: {who} carried out {posts}, {again} of them again; {answered} were answered")
        })
        .collect()
}

fn tokens_grow(facts: &Facts) -> Vec<String> {
    let mut faults = Vec::new();
    for sessions in by_key(facts).into_values() {
        let others = sessions.windows(2).filter(|pair| pair[1].beats.backend != pair[0].beats.backend);
        faults.extend(others.filter(|pair| pair[1].beats.fence <= pair[0].beats.fence).map(|pair| {
            format!("token: {} came after {}", describe(facts, pair[1]), describe(facts, pair[0]))
        }));
    }
    faults
}

/// A fencing token is one process's, however short it lived.
fn one_start_per_backend(facts: &Facts) -> Vec<String> {
    let mut starts: BTreeMap<&str, Vec<&Session>> = BTreeMap::new();
    for session in &facts.sessions {
        starts.entry(&session.beats.backend).or_default().push(session);
    }
    let again = |sessions: Vec<&Session>| {
        let [first, others @ ..] = &sessions[..] else { return Vec::new() };
        let said = |other: &&Session| {
            format!("doubled: {} and {} are one backend", describe(facts, first), describe(facts, other))
        };
        others.iter().map(said).collect()
    };
    starts.into_values().flat_map(again).collect()
}

/// Whatever waits for a session takes one, ever: also an application that ran before it.
fn one_session_per_container(facts: &Facts) -> Vec<String> {
    let mut by_container: BTreeMap<(u8, &str), Vec<&Session>> = BTreeMap::new();
    for session in &facts.sessions {
        by_container.entry((session.drone, &session.container)).or_default().push(session);
    }
    let mut shared = Vec::new();
    for sessions in by_container.into_values() {
        let others = sessions[1..].iter().filter(|other| other.beats.backend != sessions[0].beats.backend);
        shared.extend(others.map(|other| {
            let (one, other) = (describe(facts, sessions[0]), describe(facts, other));
            format!("shared: one container was given to {one} and to {other}")
        }));
    }
    shared
}

/// The shortest time in which a key went from one process to the next.
pub fn closest(facts: &Facts) -> Option<u64> {
    let by_key = by_key(facts);
    let pairs = by_key.values().flat_map(|sessions| sessions.windows(2));
    pairs.map(|pair| pair[1].beats.first.saturating_sub(pair[0].beats.last)).min()
}

/// Whether something was done to the very container that it was in, not long before its end.
pub fn was_hit(facts: &Facts, session: &Session) -> bool {
    let is_in = |container: &str| container == session.container;
    facts.seen.hit.iter().any(|hit| is_in(&hit.container) && session.beats.last <= hit.until)
}

pub fn sessions_of<'f>(facts: &'f Facts, backend: &str) -> impl Iterator<Item = &'f Session> {
    facts.sessions.iter().filter(move |session| session.beats.backend == backend)
}
