//! Whether a session's end was allowed: nobody used it, it left by itself as it was asked to, somebody stopped it, its drone
//! was cut off for longer than a lease, or its engine died. Pure.

use crate::check::{Facts, Session, describe, was_hit};
use crate::places::{CONTROLLERS, Host, Part};
use crate::schedule::Fault;
use crate::seen::{Done, SECOND, Wish};
use crate::ways::{ends_sessions, of_drone, of_link, of_pair, of_part, was_asked, was_at_work};

/// A drone that was cut off twice in so short a time had no chance to renew in between.
const CHANCE: u64 = 3 * SECOND;
const STEP: u64 = SECOND / 10;
/// Between two beats of a session's process, at least.
const BEAT: u64 = SECOND / 50;

pub fn end(facts: &Facts, session: &Session) -> Result<(), String> {
    let (backend, last) = (&session.beats.backend, session.beats.last);
    let Some(row) = facts.rows.get(backend) else {
        return Err(format!("ended: {} is not in Postgres", describe(facts, session)));
    };
    let refuse = |why: &str| {
        let word = facts.words.get(backend).map_or("nothing", String::as_str);
        let (who, reason, status) = (describe(facts, session), &row.end_reason, &row.status);
        Err(format!("ended: {who}: {reason} ({status}; its drone says {word}): {why}"))
    };
    // From the daemon's kill until it answers again, having ended what it found.
    let engine_died = was_at_work(
        facts,
        last,
        last,
        |fault| matches!(fault, Fault::Kill(part) | Fault::Restart(part) if ends_sessions(part, session.drone)),
    );
    // What is killed writes nothing of its end: it may have lived for as long as it was ever silent after its last beat.
    let heard = last + session.beats.gap_max.max(BEAT);
    let left_as_asked = session.beats.told_to_stop == 0
        && session.beats.left != 0
        && was_asked(facts, backend, Wish::Exit, last);
    let ended_before = left_as_asked || engine_died;
    match reason(facts, session, &row.end_reason) {
        _ if row.status != "terminated" => refuse("it is not over for Postgres"),
        "idle" => Ok(()),
        // A stop may have come before its drone saw that it had left, or that its engine had ended it.
        "external" if was_asked(facts, backend, Wish::Stop, if ended_before { u64::MAX } else { heard }) => {
            Ok(())
        }
        "external" => refuse("nobody asked for it"),
        "exited" | "lease_expired" | "lost" if left_as_asked => Ok(()),
        _ if was_hit(facts, session) => Ok(()),
        "lease_expired" | "lost" | "exited" if was_isolated(facts, session) => Ok(()),
        "lease_expired" => refuse("its drone was not cut off for so long"),
        _ if engine_died => Ok(()),
        // The drone never had it for certain: a PUT whose answer was lost is taken back after 30 s.
        "refused"
            if was_at_work(facts, session.beats.first, last, |fault| of_drone(fault, session.drone)) =>
        {
            Ok(())
        }
        _ => refuse("for no reason that is allowed"),
    }
}

/// What ended it. Of a drone that was cut off after the end, Postgres only knows that its lease ran out; of one whose taking
/// it nobody could write down before it was over, that it was taken back. Then the drone's own word counts, which it has kept.
fn reason<'f>(facts: &'f Facts, session: &Session, row: &'f str) -> &'f str {
    match (row, facts.words.get(&session.beats.backend).map(String::as_str)) {
        ("lease_expired" | "lost", Some(word))
        | ("refused", Some(word @ ("lease_expired" | "idle" | "exited"))) => word,
        _ => row,
    }
}

/// Whether the session's drone could not renew its lease for long enough before the end, and so it was told to stop.
fn was_isolated(facts: &Facts, session: &Session) -> bool {
    let terms = facts.terms;
    if session.beats.told_to_stop == 0 {
        return false;
    }
    let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    // The stop signal comes a grace before the end, and the last renewal may be a heartbeat or two old.
    let enough = nanos(terms.held_for() - terms.grace_max())
        .saturating_sub(2 * nanos(terms.heartbeat(std::time::Duration::from_secs(2))));
    let end = session.beats.last + SECOND;
    let begin = end.saturating_sub(2 * nanos(terms.watched_for()) + 60 * SECOND);
    let (mut run, mut chance, mut time) = (0, CHANCE, begin);
    while time < end {
        if is_isolated(facts, session.drone, time) {
            run += STEP + if chance < CHANCE { chance } else { 0 };
            chance = 0;
        } else {
            chance += STEP;
            if chance >= CHANCE && run < enough {
                run = 0;
            }
        }
        time += STEP;
    }
    run >= enough
}

/// Whether a drone cannot renew at this time: it, its link, Postgres, or each way by a controller is faulty.
fn is_isolated(facts: &Facts, drone: u8, time: u64) -> bool {
    let faulty = |is: &dyn Fn(Fault) -> bool| {
        let now = |done: &&Done| done.from <= time && time <= done.to;
        facts.seen.faults.iter().filter(now).any(|done| is(done.fault))
    };
    let own = Host::Drone(drone);
    let at_all = |part: Part| faulty(&|fault| of_part(fault, part) || of_link(fault, part.host()));
    // A reset connection is made anew at once.
    let pair = |one: Host, other: Host| {
        faulty(&|fault| !matches!(fault, Fault::Reset(..)) && of_pair(fault, one, other))
    };
    let no_way_by = |number: u8| {
        let controller = Host::Controller(number);
        at_all(Part::Controller(number)) || pair(own, controller) || pair(controller, Host::Postgres)
    };
    at_all(Part::Drone(drone)) || at_all(Part::Postgres) || (1..=CONTROLLERS).all(no_way_by)
}
