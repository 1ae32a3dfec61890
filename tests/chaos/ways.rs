//! What lies on whose way, and so which faults excuse what a client saw: a WebSocket that dropped, a request that hung, a
//! start that failed, somebody who was turned away. Pure. Excuses are as narrow as is known: what happens elsewhere is none.

use crate::beats::Beats;
use crate::check::{Facts, Session, sessions_of, was_hit};
use crate::engine::LIVE_RESTORE;
use crate::places::{CONTROLLERS, DRONES, Host, Part};
use crate::pools::Change;
use crate::schedule::Fault;
use crate::seen::{Asked, Done, Dropped, Hung, Refused, SECOND, TurnedAway, UNCONFIRMED, Unclean, Wish, at};
use crate::verdicts::was_forgotten;

/// How long a fault's consequences go on after its end: a connection that was cut is missed later, and waits for a
/// retransmission as long as the cut again.
fn tail(done: &Done) -> u64 {
    match done.fault {
        Fault::Kill(_)
        | Fault::Restart(_)
        | Fault::Reset(..)
        | Fault::KillAmidClaims(_)
        | Fault::KillSlots(_)
        | Fault::KillAtExec(_)
        | Fault::FailOver(_)
        | Fault::CompareTwice(_)
        | Fault::Vanish
        | Fault::Pool(..) => 3 * SECOND,
        Fault::Pause(_)
        | Fault::Cut(_)
        | Fault::CutIn(_)
        | Fault::CutOut(_)
        | Fault::CutPair(..)
        | Fault::Lossy(_)
        | Fault::Delay(_)
        | Fault::Duplicate(_)
        | Fault::Reorder(_)
        | Fault::LoseReplies(_)
        | Fault::FreezeInit(_)
        | Fault::FreezeHot(_) => 5 * SECOND + done.to.saturating_sub(done.from),
    }
}

/// New keys, ends and renewals go on in this time after the host of Postgres has vanished, and its successor serves.
const RESUMED: u64 = 10 * SECOND;

/// Until when a fault itself keeps anything from being done.
pub fn at_work_until(done: &Done) -> u64 {
    match done.fault {
        Fault::Vanish => done.to.min(done.from + RESUMED),
        _ => done.to,
    }
}

/// When a fault's consequences are over.
pub fn over(done: &Done) -> u64 {
    at_work_until(done).saturating_add(tail(done))
}

/// Whether it was done to this part's own processes.
pub fn of_part(fault: Fault, part: Part) -> bool {
    match fault {
        Fault::Kill(hit) | Fault::Restart(hit) | Fault::Pause(hit) => hit == part,
        Fault::KillAmidClaims(drone) => part == Part::Drone(drone),
        Fault::FailOver(_) => part == Part::Postgres,
        _ => false,
    }
}

/// Whether it was done to this host's link.
pub fn of_link(fault: Fault, host: Host) -> bool {
    matches!(fault, Fault::Cut(cut) | Fault::CutIn(cut) | Fault::CutOut(cut) | Fault::Lossy(cut) if cut == host)
}

/// Whether it was done to what these two say to each other.
pub fn of_pair(fault: Fault, one: Host, other: Host) -> bool {
    match fault {
        Fault::CutPair(a, b) | Fault::Reset(a, b) => [(a, b), (b, a)].contains(&(one, other)),
        Fault::Vanish => {
            let ends = [one, other];
            ends.contains(&Host::Postgres) && ends.iter().any(|end| matches!(end, Host::Controller(_)))
        }
        Fault::Delay(drone)
        | Fault::Duplicate(drone)
        | Fault::Reorder(drone)
        | Fault::LoseReplies(drone)
        | Fault::CompareTwice(drone) => {
            let ends = [one, other];
            ends.contains(&Host::Drone(drone)) && ends.iter().any(|end| matches!(end, Host::Controller(_)))
        }
        _ => false,
    }
}

/// Whether it keeps the driver or a client from asking this part.
fn before(fault: Fault, part: Part) -> bool {
    of_part(fault, part) || of_link(fault, part.host())
}

/// Whether it keeps one host from asking a part of another.
fn between(fault: Fault, host: Host, part: Part) -> bool {
    of_part(fault, part)
        || of_link(fault, host)
        || of_link(fault, part.host())
        || of_pair(fault, host, part.host())
}

/// Whether it keeps a drone from being told by a controller, or from doing what it is told.
pub fn of_drone(fault: Fault, drone: u8) -> bool {
    let told = |number| {
        between(fault, Host::Controller(number), Part::Drone(drone))
            && !of_link(fault, Host::Controller(number))
    };
    of_part(fault, Part::Engine(drone)) || (1..=CONTROLLERS).any(told)
}

/// Whether it was done to what waits for its session on a drone's host: excuses only what got it.
fn of_slots(fault: Fault, drone: u8) -> bool {
    matches!(
        fault,
        Fault::KillSlots(hit) | Fault::FreezeInit(hit) | Fault::FreezeHot(hit) | Fault::KillAtExec(hit)
            if hit == drone
    )
}

/// Whether it may be that such a fault's container was this backend's: it wrote from it, or it has never written anything.
fn may_have_been_hit(facts: &Facts, backend: &str, drone: u8, from: u64, to: u64) -> bool {
    sessions_of(facts, backend).all(|session| was_hit(facts, session))
        && was_at_work(facts, from, to, |fault| of_slots(fault, drone))
}

/// Whether this part takes the sessions of a drone's host with it.
pub fn ends_sessions(fault: Fault, drone: u8) -> bool {
    let is_its_engine =
        matches!(fault, Fault::Kill(part) | Fault::Restart(part) if part == Part::Engine(drone));
    is_its_engine && drone != LIVE_RESTORE
}

/// Whether a fault lies on the way from a client through a proxy to a session on a drone's host, once it is open.
pub fn on_path(fault: Fault, proxy: u8, drone: u8) -> bool {
    let (proxy, agent) = (Part::Proxy(proxy), Part::Drone(drone));
    let is_direct = proxy.host() == agent.host();
    before(fault, proxy) || ends_sessions(fault, drone) || (!is_direct && between(fault, proxy.host(), agent))
}

/// The same before it is open: the agent is asked, and the session may have to be started.
fn on_way_in(fault: Fault, proxy: u8, drone: Option<u8>) -> bool {
    let host = Part::Proxy(proxy).host();
    let of_drone = |drone| {
        on_path(fault, proxy, drone) || between(fault, host, Part::Drone(drone)) || of_drone(fault, drone)
    };
    drone.map_or_else(|| (1..=DRONES).any(of_drone), of_drone)
}

/// Whether such a fault was at work, or had just been, at some time between the two.
pub fn was_at_work(facts: &Facts, from: u64, to: u64, is: impl Fn(Fault) -> bool) -> bool {
    facts.seen.faults.iter().any(|done| is(done.fault) && done.from <= to && from <= over(done))
}

/// For how much of the time between the two no such fault was at work, nor had just been.
fn undisturbed(facts: &Facts, from: u64, to: u64, is: impl Fn(Fault) -> bool) -> u64 {
    let mut disturbed: Vec<_> = facts
        .seen
        .faults
        .iter()
        .filter(|done| is(done.fault))
        .map(|done| (done.from.max(from), over(done).min(to)))
        .filter(|(begin, end)| begin < end)
        .collect();
    disturbed.sort_unstable();
    let (mut free, mut until) = (0, from);
    for (begin, end) in disturbed {
        free += begin.saturating_sub(until);
        until = until.max(end);
    }
    free + to.saturating_sub(until)
}

/// Whether somebody had asked for this before it was so.
pub fn was_asked(facts: &Facts, backend: &str, wish: Wish, until: u64) -> bool {
    facts.seen.asked.iter().any(|asked| asked.backend == backend && asked.wish == wish && asked.at <= until)
}

/// From a session's end until each client of it, and each proxy, has heard of it, where no fault holds the news up.
const HEARD: u64 = 5 * SECOND;
/// From a client's wish until the session has left: its grace, a kill, and the news.
const LEAVES: u64 = 2 * SECOND + HEARD;

/// Whether it was told to leave, not long before and at some time until the second.
fn was_told_to_leave(facts: &Facts, backend: &str, from: u64, until: u64) -> bool {
    let is_its = |asked: &&Asked| asked.backend == backend;
    facts.seen.asked.iter().filter(is_its).any(|asked| asked.at <= until && from <= asked.at + LEAVES)
}

/// Whether it was on its way out, or had just gone, at some time between the two.
fn was_ending(session: &Session, from: u64, until: u64) -> bool {
    let Beats { told_to_stop, last, .. } = session.beats;
    let begin = if told_to_stop == 0 { last } else { told_to_stop };
    begin <= until.saturating_add(SECOND) && from <= last + HEARD
}

fn drone_of(facts: &Facts, backend: &str) -> Option<u8> {
    let of_row = || facts.rows.get(backend).and_then(|row| row.drone);
    sessions_of(facts, backend).next().map(|session| session.drone).or_else(of_row)
}

fn reason_of<'f>(facts: &'f Facts, backend: &str) -> &'f str {
    facts.rows.get(backend).map_or("no row", |row| row.end_reason.as_str())
}

/// A WebSocket that dropped with no fault on its way. One that dropped because its session ended is the session's matter,
/// except that nobody who is connected is idle.
pub fn drop_fault(facts: &Facts, dropped: &Dropped) -> Option<String> {
    let Dropped { backend, proxy, opened, at: time, how } = dropped;
    let said = |drone: &str| {
        let (open, at, reason) =
            (at(facts.start, *opened), at(facts.start, *time), reason_of(facts, backend));
        format!(
            "dropped: a WebSocket of {backend} on {drone} through proxy{proxy}, opened {open}, dropped {at}: {how} (the session: {reason})"
        )
    };
    let Some(session) = sessions_of(facts, backend).next() else {
        return Some(said("an unknown drone"));
    };
    let drone = session.drone;
    let ended = session.beats.last <= time + SECOND && *time <= session.beats.last + HEARD;
    // Its last visitor is gone the moment it leaves as it was asked to; "idle" may be faster then than its own word.
    let is_its_own = reason_of(facts, backend) != "idle" || was_told_to_leave(facts, backend, *time, *time);
    let excused =
        (ended && is_its_own) || was_at_work(facts, *time, *time, |fault| on_path(fault, *proxy, drone));
    (!excused).then(|| said(&format!("d{drone}")))
}

/// A request that had no answer by its deadline, although its way was whole for as long as it may take.
pub fn hang(facts: &Facts, hung: &Hung) -> Option<String> {
    let drone = hung.backend.as_deref().and_then(|backend| drone_of(facts, backend));
    let free = undisturbed(facts, hung.from, hung.at, |fault| match (hung.to, drone) {
        (Part::Proxy(proxy), _) if hung.starts => on_way_in(fault, proxy, drone),
        (Part::Proxy(proxy), Some(drone)) => on_path(fault, proxy, drone),
        (to, _) => before(fault, to),
    });
    (free >= hung.bound).then(|| {
        let (from, until) = (at(facts.start, hung.from), at(facts.start, hung.at));
        format!("hung: {} to {}, {from} to {until}", hung.what, hung.to)
    })
}

/// After a fault of Postgres or of the controllers: the news of an end may still be on its way to them.
const NEWS: u64 = 2 * SECOND;

/// A start that failed, or a URL that was over at once, because of nothing that happened to its drone.
pub fn refusal(facts: &Facts, refused: &Refused) -> Option<String> {
    let Refused { what, by, through, unconfirmed, backend, from, at: time } = refused;
    let drone = drone_of(facts, backend);
    // Without its row, no drone is known: it was one of them.
    let lost = &facts.seen.lost_commits;
    let row_was_lost = lost.iter().any(|lost| lost.from <= *time && *from <= lost.to + SUCCEEDS);
    // Whether the lease was over for a reason is the session's own verdict.
    let is_old_news = reason_of(facts, backend) == "lease_expired"
        && was_at_work(facts, from.saturating_sub(NEWS), *time, is_controllers);
    let excused = is_old_news
        || was_told_to_leave(facts, backend, *from, *time)
        || drone.is_some_and(|drone| may_have_been_hit(facts, backend, drone, *from, *time))
        || was_at_work(facts, *from, *time, |fault| match drone {
            Some(drone) => {
                of_drone(fault, drone)
                    || between(fault, by.host(), Part::Drone(drone))
                    || (*unconfirmed && is_controllers(fault))
                    || through.is_some_and(|proxy| on_way_in(fault, proxy, Some(drone)))
            }
            None => {
                let of_any = |drone| of_drone(fault, drone) || of_slots(fault, drone);
                (*unconfirmed && is_controllers(fault)) || (row_was_lost && (1..=DRONES).any(of_any))
            }
        });
    (!excused).then(|| {
        let (from, until) = (at(facts.start, *from), at(facts.start, *time));
        let reason = reason_of(facts, backend);
        format!("refused: {backend} {what}, {from} to {until} (drone {drone:?}, the session: {reason})")
    })
}

/// Whether it is about the controllers or what they stand on.
fn is_controllers(fault: Fault) -> bool {
    before(fault, Part::Postgres)
        || (1..=CONTROLLERS).any(|number| between(fault, Host::Postgres, Part::Controller(number)))
}

/// From the end of a primary until the next one has been seen.
const SUCCEEDS: u64 = 8 * SECOND;

/// Whether new keys have to wait: after commits were lost, until every drone that Postgres may not know of has outlived its lease.
fn is_outwaited(facts: &Facts, from: u64, until: u64) -> bool {
    let watched = u64::try_from(facts.terms.watched_for().as_nanos()).unwrap_or(u64::MAX);
    let lost = facts.seen.lost_commits.iter();
    lost.into_iter().any(|lost| lost.to <= until && from <= lost.to + SUCCEEDS + watched)
}

/// Somebody who was told to come back, although nothing was wrong that could concern him.
pub fn turned_away(facts: &Facts, away: &TurnedAway) -> Option<String> {
    let TurnedAway { what, to, backend, from, at: time } = away;
    let drone = backend.as_deref().and_then(|backend| drone_of(facts, backend));
    let ended = backend.as_deref().is_some_and(|backend| {
        was_told_to_leave(facts, backend, *from, *time)
            || drone.is_some_and(|drone| may_have_been_hit(facts, backend, drone, *from, *time))
            || sessions_of(facts, backend).any(|session| was_ending(session, *from, *time))
    });
    // A proxy that has just started has to hear from a controller which installation it is of; later it needs none.
    let asks_controllers = !matches!(to, Part::Proxy(_)) || what.contains("proxy_not_ready");
    // What a pool is may change at any time; that there is none is no surprise where somebody has deleted it.
    let names_none = what.contains("pool_not_found");
    let is_deleted =
        |fault| matches!(fault, Fault::Pool(Change::Again, _) | Fault::FailOver(_) | Fault::CompareTwice(_));
    // Its row was lost with the last commits, and is put back before its key could be given to another.
    let is_forgotten = sessions_of(facts, backend.as_deref().unwrap_or_default())
        .all(|session| was_forgotten(facts, session))
        && is_outwaited(facts, *from, *time);
    let excused = if what.contains("backend_not_found") {
        is_forgotten
    } else {
        ended
            || (what.contains(" busy") && is_outwaited(facts, *from, *time))
            // A controller that ended takes the grants with it that no drone has taken yet.
            || (what.contains("backend_not_ready") && what.ends_with(UNCONFIRMED)
                && was_at_work(facts, *from, *time, is_controllers))
            || was_at_work(facts, *from, *time, |fault| {
                if names_none {
                    return is_deleted(fault);
                }
                let seen = match to {
                    Part::Proxy(proxy) => on_way_in(fault, *proxy, drone),
                    _ => before(fault, *to) || (1..=DRONES).any(|drone| of_drone(fault, drone)),
                };
                seen || (asks_controllers && is_controllers(fault))
            })
    };
    (!excused).then(|| {
        let (from, until, backend) =
            (at(facts.start, *from), at(facts.start, *time), backend.as_deref().unwrap_or("-"));
        format!("turned away: {what} by {to}, {from} to {until} (backend {backend}, drone {drone:?})")
    })
}

/// A part that could not stop in order, although nothing kept it: a controller cannot end its statements where Postgres has
/// fallen silent.
pub fn not_in_order(facts: &Facts, unclean: &Unclean) -> Option<String> {
    let Unclean { part, how, from, at: time } = unclean;
    let is_silent = |fault| between(fault, part.host(), Part::Postgres);
    let excused = matches!(part, Part::Controller(_)) && was_at_work(facts, *from, *time, is_silent);
    let (from, until) = (at(facts.start, *from), at(facts.start, *time));
    (!excused).then(|| format!("broken: {part}: {how}, {from} to {until}"))
}

/// The part of the run in which a WebSocket on this way would have had no excuse to drop.
pub fn without_excuse(facts: &Facts, until: u64, proxy: u8, drone: u8) -> f64 {
    let free = undisturbed(facts, facts.start, until, |fault| on_path(fault, proxy, drone));
    #[expect(clippy::cast_precision_loss, reason = "for a human's eyes")]
    let part = free as f64 / until.saturating_sub(facts.start).max(1) as f64;
    part
}
