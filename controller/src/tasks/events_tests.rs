//! Reports of many drones in one statement, and what keeps one of them from holding up the others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jetway_protocol::ids::{BackendId, Term};
use jetway_protocol::status::{End, EndReason, Status};
use jetway_service::controllers::CALL_MAX;
use serde_json::json;

use super::*;
use crate::db::tests::Statements;
use crate::testing::{Answer as Said, FakeDrone, Harness, end, keyed};

/// A drone with a backend that has become ready, and has not said so.
async fn with_one(harness: &Harness, name: &str) -> (Arc<FakeDrone>, BackendId) {
    let drone =
        harness.drone_with(name, |register| register.pool = format!("p-{name}").parse().unwrap()).await;
    let mut body = keyed(name);
    body["spawn_config"]["pool"] = json!(format!("p-{name}"));
    let answer = harness.connect(&body).await;
    let id: BackendId = answer.json()["backend_id"].as_str().unwrap().parse().unwrap();
    for status in [Status::Starting, Status::Ready] {
        drone.advance(&id, status);
    }
    (drone, id)
}

async fn say_under(harness: &Harness, drone: &FakeDrone, term: Term) -> Said {
    let body = json!({ "term": term, "events": drone.events() });
    harness.internal(&format!("/internal/drones/{}/events", drone.identity().0), &body).await
}

async fn say(harness: &Harness, drone: &FakeDrone) -> Said {
    say_under(harness, drone, drone.identity().1).await
}

/// What Postgres has.
async fn status_of(harness: &Harness, id: &BackendId) -> Status {
    let sql = "select status from backends where id = $1";
    let rank: i16 = sqlx::query_scalar(sql).bind(id.as_str()).fetch_one(&harness.sql).await.unwrap();
    Status::from_rank(rank).unwrap()
}

#[tokio::test]
async fn reports_that_come_together_are_one_statement() {
    let harness = Harness::new().await;
    let mut drones = Vec::new();
    for n in 0..20 {
        drones.push(with_one(&harness, &format!("d{n}")).await);
    }
    let count = Arc::new(AtomicUsize::new(0));
    let counting = tracing::subscriber::set_default(Statements::counted_in(&count));
    let answers = join_all(drones.iter().map(|(drone, _)| say(&harness, drone))).await;
    drop(counting);
    assert!(answers.iter().all(|answer| answer.status == 200));
    // The first one of each writer may go alone.
    assert!(count.load(Ordering::Relaxed) <= 3, "{} statements", count.load(Ordering::Relaxed));
    for (_, id) in &drones {
        assert_eq!(status_of(&harness, id).await, Status::Ready);
    }
    let history = "select count(*)::text from backend_events";
    let stored = harness.value(history).await;
    assert!(
        join_all(drones.iter().map(|(drone, _)| say(&harness, drone))).await.iter().all(|a| a.status == 200)
    );
    assert_eq!(harness.value(history).await, stored, "said twice");
}

#[tokio::test]
async fn a_locked_row_holds_up_its_own_drone_only() {
    let harness = Harness::new().await;
    let (one, held) = with_one(&harness, "one").await;
    let (two, free) = with_one(&harness, "two").await;
    let mut transaction = harness.sql.begin().await.unwrap();
    let lock = "select 1 from backends where id = $1 for update";
    sqlx::query(lock).bind(held.as_str()).execute(&mut *transaction).await.unwrap();
    let begun = Instant::now();
    let (locked, stored) = tokio::join!(say(&harness, &one), say(&harness, &two));
    assert_eq!((locked.outcome(), stored.status), ((503, "busy".into()), 200));
    assert!(begun.elapsed() < Duration::from_secs(2), "nobody waited for the lock: {:?}", begun.elapsed());
    assert_eq!(status_of(&harness, &free).await, Status::Ready);
    assert_eq!(status_of(&harness, &held).await, Status::Scheduled);
    // Freed meanwhile, it is in the next batch.
    let (stored, ()) = tokio::join!(say(&harness, &one), async {
        tokio::time::sleep(LOCKED_PAUSE).await;
        transaction.rollback().await.unwrap();
    });
    assert_eq!(stored.status, 200, "{}", stored.text());
    assert_eq!(status_of(&harness, &held).await, Status::Ready);
}

#[tokio::test]
async fn of_one_batch_each_drone_is_answered_for_its_own_term_and_what_is_refused_is_left_out_alone() {
    let harness = Harness::new().await;
    let (bad, refused) = with_one(&harness, "bad").await;
    let (good, stored) = with_one(&harness, "good").await;
    let (old, unheard) = with_one(&harness, "old").await;
    let ended = |output: &str| End { output: output.into(), ..end(EndReason::ExitedBeforeReady) };
    bad.advance_with(&refused, Status::Terminated, Some(ended("refused")));
    good.advance_with(&stored, Status::Terminated, Some(ended("fine")));
    harness
        .execute(
            "alter table backend_events add constraint no_such_output
             check (end_json is null or end_json ->> 'output' <> 'refused')",
        )
        .await;
    let report = |drone: &FakeDrone, term: Term| {
        Arc::new(Report { drone: drone.identity().0, term, events: drone.events() })
    };
    let terms = [&bad, &good, &old].map(|drone| drone.identity().1);
    let batch = [
        report(&bad, terms[0]),
        report(&good, terms[1]),
        report(&old, Term(terms[2].0 - 1)),
        // The same once more, as a drone sends it that has given up its first call.
        report(&good, terms[1]),
    ];
    let mut connection = harness.app.pools.internal.acquire().await.unwrap();
    let outcomes = events::store_all(&mut connection, &batch).await.unwrap();
    assert_eq!(outcomes, [Outcome::Stored, Outcome::Stored, Outcome::TermOver, Outcome::Stored]);
    assert_eq!(status_of(&harness, &refused).await, Status::Ready, "all but its end");
    assert_eq!(status_of(&harness, &stored).await, Status::Terminated);
    assert_eq!(status_of(&harness, &unheard).await, Status::Scheduled);
    // A drone's old term does not ride on its present one.
    let both = [report(&old, Term(terms[2].0 - 1)), report(&old, terms[2])];
    let outcomes = events::store_all(&mut connection, &both).await.unwrap();
    assert_eq!(outcomes, [Outcome::TermOver, Outcome::Stored]);
    assert_eq!(status_of(&harness, &unheard).await, Status::Ready);
}

#[tokio::test]
async fn a_postgres_that_does_not_answer_and_a_controller_that_stops_leave_nobody_waiting() {
    let harness = Harness::new().await;
    let (one, id) = with_one(&harness, "one").await;
    let mut transaction = harness.sql.begin().await.unwrap();
    sqlx::query("lock table backend_events").execute(&mut *transaction).await.unwrap();
    let begun = Instant::now();
    assert_eq!(say(&harness, &one).await.outcome(), (503, "busy".into()));
    assert!(begun.elapsed() < CALL_MAX, "a drone waits no longer: {:?}", begun.elapsed());
    transaction.rollback().await.unwrap();
    assert_eq!(say(&harness, &one).await.status, 200);
    assert_eq!(status_of(&harness, &id).await, Status::Ready);

    let mut transaction = harness.sql.begin().await.unwrap();
    sqlx::query("lock table backend_events").execute(&mut *transaction).await.unwrap();
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        harness.app.lifecycle.token().cancel();
    };
    let begun = Instant::now();
    let (said, ()) = tokio::join!(join_all((0..3).map(|_| say(&harness, &one))), stopping);
    assert!(said.iter().all(|answer| answer.status == 503));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
