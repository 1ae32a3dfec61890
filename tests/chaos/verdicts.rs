//! Whether a session's end was allowed: nobody used it, it left by itself as it was asked to, somebody stopped it, its drone
//! was cut off for longer than a lease, or its engine died. Pure.

use crate::beats::Beats;
use crate::check::{Facts, Session, describe, was_hit};
use crate::places::{CONTROLLERS, Host, Part};
use crate::pools;
use crate::schedule::Fault;
use crate::seen::{Done, SECOND, Used, Wish, at};
use crate::ways::{
    at_work_until, ends_sessions, of_drone, of_link, of_pair, of_part, on_path, was_asked, was_at_work,
};

/// A drone that was cut off twice in so short a time had no chance to renew in between.
const CHANCE: u64 = 3 * SECOND;
const STEP: u64 = SECOND / 10;
/// From the end of a container's process until its engine has written the status down, at most.
const STATUS_WRITTEN: u64 = SECOND / 2;
/// Between two beats of a session's process, at least.
const BEAT: u64 = SECOND / 50;

pub fn end(facts: &Facts, session: &Session) -> Result<(), String> {
    let (backend, last) = (&session.beats.backend, session.beats.last);
    let Some(row) = facts.rows.get(backend) else {
        if was_forgotten(facts, session) {
            return Ok(());
        }
        return Err(format!("ended: {} is not in Postgres", describe(facts, session)));
    };
    let refuse = |why: &str| {
        let word = facts.words.get(backend).map_or("nothing", String::as_str);
        let (who, reason, status) = (describe(facts, session), &row.end_reason, &row.status);
        let message = &row.message;
        Err(format!("ended: {who}: {reason} ({status}, {message}; its drone says {word}): {why}"))
    };
    // An engine that is killed right after an end forgets the status, and says 255.
    let status_is_lost = was_at_work(
        facts,
        last,
        last + STATUS_WRITTEN,
        |fault| matches!(fault, Fault::Kill(part) if part == Part::Engine(session.drone)),
    );
    // From the daemon's kill until it answers again, having ended what it found.
    let engine_died = was_at_work(facts, last, last, |fault| ends_sessions(fault, session.drone));
    // What is killed writes nothing of its end: it may have lived for as long as it was ever silent after its last beat.
    let heard = last + session.beats.gap_max.max(BEAT);
    let left_as_asked = session.beats.told_to_stop == 0
        && session.beats.left != 0
        && was_asked(facts, backend, Wish::Exit, last);
    let ended_before = left_as_asked || engine_died;
    match reason(facts, session, &row.end_reason) {
        _ if row.status != "terminated" => refuse("it is not over for Postgres"),
        "idle" => match used_too_late(facts, session) {
            None => Ok(()),
            Some(why) => refuse(&why),
        },
        // A stop may have come before its drone saw that it had left, or that its engine had ended it.
        "external" if was_asked(facts, backend, Wish::Stop, if ended_before { u64::MAX } else { heard }) => {
            Ok(())
        }
        "external" => refuse("nobody asked for it"),
        "exited" | "lease_expired" | "lost" if left_as_asked => Ok(()),
        "crashed" if left_as_asked && status_is_lost => Ok(()),
        _ if was_hit(facts, session) => Ok(()),
        "lease_expired" | "lost" | "exited" | "crashed" if was_isolated(facts, session) => Ok(()),
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

/// From the commit of a backend's row to the first that its process writes.
const STARTS: u64 = 10 * SECOND;

/// Whether its row may have been lost with the last commits of a primary; it has none where it ended before it was put back.
pub fn was_forgotten(facts: &Facts, session: &Session) -> bool {
    let first = session.beats.first;
    facts.seen.lost_commits.iter().any(|lost| lost.from <= first && first <= lost.to + STARTS)
}

/// Why it cannot have been idle for so long as its idle time is: a client had it in use, or nobody had come yet. It was told to
/// stop after that time was over; one that never heard of it, and was killed, ended after it.
fn used_too_late(facts: &Facts, session: &Session) -> Option<String> {
    let Beats { backend, key, first, last, told_to_stop, gap_max, .. } = &session.beats;
    // An engine that restarts tells its containers to stop; those that take their time can end idle
    // before they are gone.
    let told_by_its_engine =
        was_at_work(facts, *told_to_stop, *told_to_stop, |fault| ends_sessions(fault, session.drone));
    let is_told_by_its_drone = *told_to_stop != 0 && !told_by_its_engine;
    let stopped = if is_told_by_its_drone { *told_to_stop } else { last + gap_max.max(&BEAT) };
    let idle = pools::idle_seconds(key) * SECOND;
    let used = facts.seen.used.iter().filter(|used| used.backend == *backend);
    let until = |used: &Used| {
        let is_on_path = |fault| on_path(fault, used.proxy, session.drone);
        let end = used.closing.unwrap_or(used.last).max(used.last);
        // A fault on its way may have ended the use before the client noticed.
        let is_certain = !was_at_work(facts, used.last, end + used.lingers, is_on_path);
        if is_certain { end + used.lingers } else { used.last }
    };
    let said = |until: u64, what: &str| {
        let (stopped, until) = (at(facts.start, stopped), at(facts.start, until));
        Some(format!("it was told to stop {stopped}, {what} {until}"))
    };
    if let Some(until) = used.map(until).max()
        && stopped < until + idle
    {
        return said(
            until,
            &format!("its idle time is {} s, and a client had it in use until", idle / SECOND),
        );
    }
    let has_come = facts.seen.tried.get(backend).is_some_and(|tried| *tried <= stopped);
    let first_connection = pools::FIRST_CONNECTION_SECONDS * SECOND;
    if !has_come && stopped < first + first_connection + idle {
        return said(*first, "nobody had come yet, and it began");
    }
    None
}

/// What ended it. Of a drone that was cut off after the end, Postgres only knows that its lease ran out; of one whose taking
/// it nobody could write down before it was over, that it was taken back. Then the drone's own word counts, which it has kept.
fn reason<'f>(facts: &'f Facts, session: &Session, row: &'f str) -> &'f str {
    match (row, facts.words.get(&session.beats.backend).map(String::as_str)) {
        ("lease_expired" | "lost", Some(word))
        | ("refused", Some(word @ ("lease_expired" | "idle" | "exited" | "crashed"))) => word,
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
    let heartbeat = nanos(terms.heartbeat(std::time::Duration::from_secs(2)));
    // The stop signal comes a grace before the end, and the last renewal may be a heartbeat or two
    // old, beside the one whose answer was on its way.
    let enough = nanos(terms.held_for() - terms.grace_max()).saturating_sub(5 * heartbeat / 2);
    let end = session.beats.told_to_stop;
    let before = nanos(terms.held_for()) + 2 * heartbeat + CHANCE;
    let begin = session.beats.told_to_stop.saturating_sub(before);
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
    // Its end may have come just before the stop: the chance of that time came too late.
    run + if chance < CHANCE { chance } else { 0 } >= enough
}

/// Whether absent keys wait at this time, because Postgres may have lost what was committed last.
fn was_unsettled(facts: &Facts, time: u64) -> bool {
    let waits = u64::try_from(facts.terms.watched_for().as_nanos()).unwrap_or(u64::MAX);
    let lost = &facts.seen.lost_commits;
    lost.iter().any(|lost| lost.from <= time && time <= lost.to.saturating_add(waits))
}

/// Whether a drone cannot renew at this time: it, its link, Postgres, or each way by a controller is faulty.
fn is_isolated(facts: &Facts, drone: u8, time: u64) -> bool {
    let faulty = |is: &dyn Fn(Fault) -> bool| {
        let now = |done: &&Done| done.from <= time && time <= at_work_until(done);
        facts.seen.faults.iter().filter(now).any(|done| is(done.fault))
    };
    let own = Host::Drone(drone);
    let at_all = |part: Part| faulty(&|fault| of_part(fault, part) || of_link(fault, part.host()));
    // After commits were lost, a drone is renewed once it was compared in its present term.
    let waits_for_comparison = was_unsettled(facts, time);
    // A reset connection is made anew at once.
    let is_brief = |fault| match fault {
        Fault::Reset(..) => true,
        Fault::CompareTwice(_) => !waits_for_comparison,
        _ => false,
    };
    let pair = |one: Host, other: Host| faulty(&|fault| !is_brief(fault) && of_pair(fault, one, other));
    let no_way_by = |number: u8| {
        let controller = Host::Controller(number);
        at_all(Part::Controller(number)) || pair(own, controller) || pair(controller, Host::Postgres)
    };
    at_all(Part::Drone(drone))
        || waits_for_its_engine(facts, drone, time)
        || at_all(Part::Postgres)
        || (1..=CONTROLLERS).all(no_way_by)
}

/// An agent registers once its engine answers: one that begins while its engine is away renews
/// nothing until then.
fn waits_for_its_engine(facts: &Facts, drone: u8, time: u64) -> bool {
    let faults = &facts.seen.faults;
    let is_away = |done: &&Done| {
        of_part(done.fault, Part::Engine(drone)) && done.from <= time && time <= at_work_until(done)
    };
    faults.iter().filter(is_away).any(|engine| {
        let began_meanwhile = |agent: &Done| {
            of_part(agent.fault, Part::Drone(drone))
                && agent.from <= time
                && engine.from <= at_work_until(agent)
        };
        faults.iter().any(began_meanwhile)
    })
}
