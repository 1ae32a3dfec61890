//! Planted: sessions that ended idle, and what their clients know of it. The idle time of `key-8` is 2 s; a plain request goes on being
//! a use for 1 s.

use super::{Case, during, facts, session};
use crate::check::Facts;
use crate::places::Part;
use crate::pools::idle_seconds;
use crate::schedule::Fault;
use crate::seen::{Inner, SECOND, Used};

/// It was told to stop at second 20.
fn idle(seen: Inner) -> Facts {
    let mut one = session("a", 1, 10 * SECOND, 21 * SECOND);
    one.beats.key = "key-8".to_owned();
    facts(vec![one], "idle", seen)
}

/// In tenths of seconds.
fn used(last: u64, closing: Option<u64>, lingers: u64) -> Inner {
    let tenth = SECOND / 10;
    let (backend, closing) = ("a".to_owned(), closing.map(|closing| closing * tenth));
    let used = Used { backend, proxy: 2, last: last * tenth, closing, lingers: lingers * tenth };
    Inner { used: vec![used], ..Inner::default() }
}

pub fn cases() -> Vec<Case> {
    assert_eq!(idle_seconds("key-8"), 2, "what the cases are made for");
    let mut never_told = idle(used(190, Some(195), 0));
    (never_told.sessions[0].beats.told_to_stop, never_told.sessions[0].beats.gap_max) = (0, SECOND);
    let mut nobody_came = idle(Inner::default());
    nobody_came.seen.tried.clear();
    let mut nobody_came_for_long =
        facts(vec![session("a", 1, 10 * SECOND, 25 * SECOND)], "idle", Inner::default());
    nobody_came_for_long.seen.tried.clear();
    let by_its_engine = |last: u64, used: Inner| {
        let mut told = idle(during(Fault::Restart(Part::Engine(2)), used));
        (told.sessions[0].beats.told_to_stop, told.sessions[0].beats.last) = (15 * SECOND, last * SECOND);
        told
    };
    let cut = |seen| idle(during(Fault::Kill(Part::Proxy(2)), seen));
    vec![
        ("a session that was idle for its time", idle(used(150, Some(179), 0)), (0, 0, 0)),
        ("one that was idle for a second less", idle(used(150, Some(190), 0)), (0, 1, 0)),
        ("one that was in use when it was told to stop", idle(used(150, Some(205), 0)), (0, 1, 0)),
        ("one whose last echo came later", idle(used(190, None, 0)), (0, 1, 0)),
        ("one whose proxy was killed before the close", cut(used(150, Some(190), 0)), (0, 0, 0)),
        ("one whose proxy was killed, long before the last echo", cut(used(195, Some(198), 0)), (0, 1, 0)),
        ("one told by its engine, idle before it was gone", by_its_engine(23, used(205, None, 0)), (0, 0, 0)),
        ("one told by its engine, gone before it was idle", by_its_engine(22, used(205, None, 0)), (0, 1, 0)),
        ("a request, and its time", idle(used(169, None, 10)), (0, 0, 0)),
        ("a request that had been a use until just now", idle(used(175, None, 10)), (0, 1, 0)),
        ("one that was killed unheard within its gap", never_told, (0, 0, 0)),
        ("one that ended before anybody could have come", nobody_came, (0, 1, 0)),
        ("one that nobody came to for long", nobody_came_for_long, (0, 0, 0)),
    ]
}
