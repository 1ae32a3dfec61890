//! The statements whose `where` clauses are rules of the lease, beside the functions that
//! `tests/model` calls in their place (`protocol/src/lease/rows.rs`): one table of cases for both.

use std::time::Duration;

use jetway_protocol::ids::{DroneId, Term};
use jetway_protocol::lease::{
    Below, Holding, LeaseTerms, Seat, is_over, is_refused, is_renewed, number, released, sent_again,
};
use jetway_protocol::spec::OnIsolation;
use sqlx::PgPool;
use uuid::Uuid;

use super::leases::{self, Renewal};
use super::{dispatch, ends, releases};
use crate::testing::{Harness, Member};

const ID: &str = "b";
/// That of the drone, where a case names none.
const TERM: i64 = 4;

/// On the first timeline.
fn seat(term: i64, renewal: i64) -> Seat {
    Seat { term: Term(number(1, term).unwrap()), renewal }
}

async fn set_seat(sql: &PgPool, seat: Seat) {
    let text = "update drones set term = $1, lease_term = $1, renewal = $2, lease_over_below = 0";
    sqlx::query(text).bind(seat.term.0).bind(seat.renewal).execute(sql).await.unwrap();
}

#[tokio::test]
async fn a_renewal_is_written_as_the_model_says() {
    let harness = Harness::new().await;
    let drone = Member::join(&harness, "one").await.drone.identity().0;
    let mut c = harness.app.pools.leases.acquire().await.unwrap();
    for (row, beat, expect) in [
        ((2, 5), (2, 6), true),
        ((2, 5), (2, 9), true),
        ((2, 5), (2, 5), false),
        ((2, 5), (2, 4), false),
        ((2, 5), (1, 9), false),
        ((2, 5), (3, 9), false),
        ((2, 0), (2, 1), true),
    ] {
        let (row, beat) = (seat(row.0, row.1), seat(beat.0, beat.1));
        assert_eq!(is_renewed(row, beat), expect, "{row:?} {beat:?}");
        set_seat(&harness.sql, row).await;
        let lease = Some(LeaseTerms::default());
        let renewal = Renewal { drone, seat: beat, lease, load: Default::default() };
        let written = leases::renew(&mut c, &[renewal]).await.unwrap();
        assert_eq!(written.len() == 1, expect, "SQL: {row:?} {beat:?}");
    }
}

#[tokio::test]
async fn a_lease_is_ended_as_the_model_says() {
    let harness = Harness::new().await;
    let drone = Member::join(&harness, "one").await.drone.identity().0;
    let mut c = harness.app.pools.leases.acquire().await.unwrap();
    let row = (seat(2, 5), 1);
    for (watched, expect) in [
        ((seat(2, 4), 1), false),
        ((seat(2, 6), 1), false),
        ((seat(1, 5), 1), false),
        ((seat(3, 5), 1), false),
        ((seat(2, 5), 2), false),
        ((seat(2, 5), 1), true),
    ] {
        assert_eq!(is_over(row, watched), expect, "{watched:?}");
        set_seat(&harness.sql, row.0).await;
        let ended = leases::end(&mut c, drone, watched.0, watched.1).await.unwrap();
        assert_eq!(ended.is_some(), expect, "SQL: {watched:?}");
    }
}

/// A live row, whose sender has had its time unless `is_only_sender`.
async fn set_row(sql: &PgPool, drone: DroneId, row: &Holding, sender: Uuid, is_only_sender: bool) {
    sqlx::query("delete from backends").execute(sql).await.unwrap();
    let text =
        "insert into backends (id, key_namespace, key_name, key_tag, cluster, drone_id, drone_term, status,
                                      on_isolation, acknowledged_at, puts_sent, dispatcher, dispatch_until)
                values ($1, '', 'k', '', 'c', $2, $3, 0, $4, case when $5 then now() end, $6, $7,
                        now() + make_interval(secs => $8))";
    let on_isolation = if row.on_isolation == OnIsolation::Keep { "keep" } else { "stop" };
    let insert = sqlx::query(text).bind(ID).bind(drone.0).bind(row.row_term.0).bind(on_isolation);
    let insert = insert.bind(row.acknowledged).bind(i32::try_from(row.puts_sent).unwrap()).bind(sender);
    let seconds = if is_only_sender { 60.0 } else { -1.0 };
    insert.bind(seconds).execute(sql).await.unwrap();
}

fn row(term: i64, acknowledged: bool, keeps: bool) -> Holding {
    Holding {
        row_term: Term(term),
        drone_term: Term(TERM),
        on_isolation: if keeps { OnIsolation::Keep } else { OnIsolation::Stop },
        acknowledged,
        puts_sent: 1,
        put_off: 0,
    }
}

/// Of a live row: its term, whether its drone has it, whether it keeps. Of its drone: the terms that
/// the last end of its lease and the last new boot began. Then: whether the row is ended for the end
/// of its term, and whether its `PUT` is sent again.
const ROWS: [(i64, bool, bool, i64, i64, bool, bool); 17] = [
    (4, false, false, 0, 0, false, true),
    (4, true, false, 0, 0, false, false),
    (2, false, false, 0, 0, false, true),
    (2, false, false, 3, 0, true, false),
    (2, true, false, 3, 0, true, false),
    (3, false, false, 3, 0, false, true),
    (3, true, false, 3, 0, false, false),
    (2, false, true, 3, 0, false, true),
    (2, true, true, 3, 0, false, false),
    (2, false, true, 0, 3, true, false),
    (2, true, false, 0, 3, true, false),
    (3, false, true, 0, 3, false, true),
    (3, false, false, 4, 0, true, false),
    (4, false, false, 4, 0, false, false),
    (3, false, true, 4, 0, false, false),
    (2, false, false, 3, 2, true, false),
    (1, false, true, 3, 2, true, false),
];

#[tokio::test]
async fn rows_are_ended_and_sent_again_as_the_model_says() {
    let harness = Harness::new().await;
    let drone = Member::join(&harness, "one").await.drone.identity().0;
    let mut c = harness.app.pools.housekeeping.acquire().await.unwrap();
    for case in ROWS {
        let (term, acknowledged, keeps, lease_over, dead, freed, again) = case;
        let row = row(term, acknowledged, keeps);
        let below = Below { lease_over: Term(lease_over), dead: Term(dead) };
        assert_eq!((below.frees(&row), sent_again(&row, below).is_some()), (freed, again), "{case:?}");

        let text =
            "update drones set term = $1, lease_over_below = $2, dead_below = $3, last_heartbeat = now()";
        let update = sqlx::query(text).bind(TERM).bind(lease_over).bind(dead);
        update.execute(&harness.sql).await.unwrap();
        set_row(&harness.sql, drone, &row, Uuid::new_v4(), false).await;
        let doomed = releases::doomed(&mut c, 9).await.unwrap();
        assert_eq!(doomed.len() == 1, freed, "SQL: {case:?}");
        assert!(doomed.iter().all(|one| released(&one.holding, one.evidence)), "{case:?}");
        let (sender, age) = (Uuid::new_v4(), Duration::from_secs(60));
        let claimed = dispatch::claim_undispatched(&mut c, sender, 8.0, age, 9).await.unwrap();
        assert_eq!(claimed.len() == 1, again, "SQL: {case:?}");
        let sql = "select drone_term, puts_sent from backends";
        let now: (i64, i32) = sqlx::query_as(sql).fetch_one(&harness.sql).await.unwrap();
        let row = sent_again(&row, below).unwrap_or(row);
        assert_eq!(now, (row.row_term.0, i32::try_from(row.puts_sent).unwrap()), "{case:?}");
    }
}

#[tokio::test]
async fn a_refusal_ends_a_row_as_the_model_says() {
    let harness = Harness::new().await;
    let drone = Member::join(&harness, "one").await.drone.identity().0;
    let mut c = harness.app.pools.requests.acquire().await.unwrap();
    let sender = Uuid::new_v4();
    // Its sender's word; while it is the only sender; the row's `PUT`s; whether the drone has it.
    for (own, in_time, puts_sent, acknowledged, expect) in [
        (true, true, 1, false, true),
        (false, true, 1, false, false),
        (true, false, 1, false, false),
        (true, true, 2, false, false),
        (true, true, 1, true, false),
        (false, false, 2, true, false),
    ] {
        let row = Holding { puts_sent, ..row(TERM, acknowledged, false) };
        let case = (own, in_time, puts_sent, acknowledged);
        assert_eq!(is_refused(&row, own && in_time), expect, "{case:?}");
        set_row(&harness.sql, drone, &row, sender, in_time).await;
        let by = if own { sender } else { Uuid::new_v4() };
        let ended = ends::end_refused(&mut c, &ID.parse().unwrap(), by, "no").await.unwrap();
        assert_eq!(ended, expect, "SQL: {case:?}");
    }
}
