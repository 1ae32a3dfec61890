//! How long a backend is held for visitors who were given a URL and have not come yet.

use jetway_protocol::ids::GrantId;

use super::tests::{GRANT, idle, proxy, seconds};
use super::{Idle, Verdict};

/// Seconds at which connects (30 s) and asks of a person (5 s) come, and when the last hold ends.
#[tokio::test(start_paused = true)]
async fn the_hold_that_ends_last_counts() {
    for (connects, asks, ends_at) in [
        (&[(1, 0)][..], &[(2, 1)][..], 30),
        (&[(1, 0)], &[(1, 1)], 30),
        (&[(1, 0)], &[(2, 27)], 32),
        (&[(1, 0), (2, 3)], &[(3, 4), (4, 5)], 33),
        (&[], &[(1, 2), (2, 1)], 7),
    ] {
        let (mut idle, now) = idle(Some(0));
        idle.ready(now);
        idle.uses(proxy(1), 1, 1, now);
        connects.iter().for_each(|(grant, at)| idle.connected(GrantId(*grant), now + seconds(*at)));
        asks.iter().for_each(|(grant, at)| idle.expected(GrantId(*grant), now + seconds(*at)));
        idle.uses(proxy(1), 0, 0, now);
        let case = format!("{connects:?} {asks:?}");
        assert_eq!(idle.verdict(now), Verdict::Wait(Some(now + seconds(ends_at))), "{case}");
        assert_eq!(idle.verdict(now + seconds(ends_at)), Verdict::Due, "{case}");
    }
}

/// What becomes of the grant of the `PUT` while another client comes in at ready, and leaves a
/// second later.
#[tokio::test(start_paused = true)]
async fn the_first_grant_is_held_from_ready() {
    let comes: fn(&mut Idle) = |idle| {
        idle.answered(proxy(1), GRANT);
    };
    let is_revoked: fn(&mut Idle) = |idle| idle.revoked(GRANT);
    for (first, held_until) in [(None, Some(100 + 30)), (Some(comes), None), (Some(is_revoked), None)] {
        let (mut idle, now) = idle(Some(0));
        idle.started_for(GRANT);
        let ready = now + seconds(100);
        idle.ready(ready);
        idle.answered(proxy(1), GrantId(8));
        first.iter().for_each(|happens| happens(&mut idle));
        idle.uses(proxy(1), 0, 0, ready + seconds(1));
        let expected = held_until.map_or(Verdict::Due, |at| Verdict::Wait(Some(now + seconds(at))));
        assert_eq!(idle.verdict(ready + seconds(1)), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connect_during_the_start_is_held_from_ready() {
    let (mut idle, now) = idle(Some(0));
    idle.connected(GRANT, now);
    idle.ready(now + seconds(60));
    idle.answered(proxy(1), GrantId(8));
    idle.uses(proxy(1), 0, 0, now + seconds(61));
    assert_eq!(idle.verdict(now + seconds(61)), Verdict::Wait(Some(now + seconds(90))));
}
