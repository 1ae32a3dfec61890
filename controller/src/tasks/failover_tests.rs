//! Postgres away, slow, or replaced by a standby that has lost the last commits.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;

use super::{inventory, watch};
use crate::testing::{Harness, Member, eventually, keyed, made_up};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test]
async fn after_a_failover_new_keys_wait_until_every_drone_is_outwaited() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    assert_eq!(harness.connect(&keyed("live")).await.status, 200);
    watch(&harness.app).tick(|| seconds(0)).await.unwrap();
    let before = harness.value("select max(fencing_token)::text from backends").await;
    harness
        .execute("create or replace function jetway_timeline() returns bigint language sql stable as $$ select 2::bigint $$")
        .await;
    // The standby has lost the last numbers, too.
    harness.execute("alter sequence fencing_tokens restart with 1").await;
    let refused = harness.connect(&keyed("new")).await;
    assert_eq!(refused.outcome(), (503, "busy".into()));
    assert!(refused.json()["retry_after_ms"].as_u64() >= Some(1000), "{}", refused.text());
    assert_eq!(harness.connect(&keyed("live")).await.status, 200, "a live key is no risk");
    let unkeyed = json!({ "spawn_config": { "executable": { "image": "app" } } });
    assert_eq!(harness.connect(&unkeyed).await.status, 200, "nor is one without a key");
    // A term of the old timeline admits no more commands: whoever has it registers anew.
    assert_eq!(member.beat(&harness).await.outcome(), (409, "term".into()));
    assert_eq!(member.register(&harness).await.status, 200);
    // What it runs may have lost its row: its lease goes on only once that is known.
    assert_eq!(member.beat(&harness).await.outcome(), (503, "busy".into()));
    let row = harness.app.fleet.by_id(member.drone.identity().0).unwrap();
    inventory(&harness.app).compare_drone(&row).await.unwrap();
    let nudge = harness.app.connects.inventory_nudge.clone();
    let _for_the_connects_before = nudge.notified().now_or_never();
    for now in (30..=660).step_by(30) {
        assert_eq!(member.beat(&harness).await.status, 200);
        watch(&harness.app).tick(|| seconds(now)).await.unwrap();
        let nudged = nudge.notified().now_or_never().is_some();
        assert_eq!(nudged, now == 30, "drones are compared as soon as the failover shows");
    }
    assert_eq!(harness.connect(&keyed("new")).await.status, 503, "watched for 630 s only");
    assert_eq!(harness.get("/ctrl/status").await.json()["lease"]["new_keys_wait_ms"], 30_000);
    watch(&harness.app).tick(|| seconds(690)).await.unwrap();
    assert_eq!(harness.connect(&keyed("new")).await.status, 200);
    let after = harness.value("select max(fencing_token)::text from backends").await;
    let (before, after): (i64, i64) = (before.parse().unwrap(), after.parse().unwrap());
    assert!(after >> 40 == 2 && before >> 40 == 1 && after < 1 << 53, "{before} {after}");
}

#[tokio::test]
async fn terms_and_tokens_rise_through_every_failover_and_stay_below_2_to_the_53() {
    let harness = Harness::new().await;
    let next = async || -> i64 {
        harness.value("select jetway_next('fencing_tokens')::text").await.parse().unwrap()
    };
    let mut last = next().await;
    for timeline in ["2", "3", "9", "8191", "9000"] {
        let sql = format!(
            "create or replace function jetway_timeline() returns bigint language sql stable as $$ select {timeline}::bigint $$"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&harness.sql).await.unwrap();
        for _ in 0..3 {
            let n = next().await;
            assert!(n > last && n < 1 << 53, "{timeline}: {n} after {last}");
            last = n;
        }
    }
}

#[tokio::test]
async fn a_statement_that_postgres_does_not_end_is_a_503_and_nothing_hangs() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    assert_eq!(harness.connect(&keyed("live")).await.status, 200);
    let mut transaction = harness.sql.begin().await.unwrap();
    sqlx::query("lock table drones, backends in access exclusive mode")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let asked = tokio::time::Instant::now();
    let (live, new) = (keyed("live"), keyed("new"));
    let (live, new, list, beat) = tokio::join!(
        harness.connect(&live),
        harness.connect(&new),
        harness.get("/ctrl/backends"),
        member.beat_as(&harness, 7),
    );
    for answer in [live, new, list] {
        assert_eq!(answer.outcome(), (503, "database".into()));
        assert!(answer.json()["retry_after_ms"].is_number());
    }
    assert_eq!(beat.outcome(), (503, "busy".into()));
    assert!(asked.elapsed() < seconds(9), "{:?}", asked.elapsed());
    transaction.rollback().await.unwrap();
    member.renewal = 7;
    let again = async || {
        let renewed = member.renewal + 1;
        member.renewal = renewed;
        (member.beat_as(&harness, renewed).await.status, harness.connect(&keyed("live")).await.status)
    };
    eventually("it serves again", again, |seen| *seen == (200, 200)).await;
}

#[tokio::test]
async fn a_newer_backend_of_a_key_supersedes_a_row_that_a_failover_has_brought_back() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    harness.connect(&keyed("k")).await;
    harness.report(&drone).await;
    let old = drone.ids()[0].clone();
    // The end of the old one and the row of the new one were lost.
    drone.bury(&old);
    let (drone_id, term) = drone.identity();
    drone.keep(&"newer".parse().unwrap(), made_up(term, 1 << 50, Some("k")));
    let row = harness.app.fleet.by_id(drone_id).unwrap();
    inventory(&harness.app).compare_drone(&row).await.unwrap();
    let live = harness.get("/ctrl/backends?key=k&state=live").await.json();
    assert_eq!(live["backends"][0]["backend_id"], "newer", "{live}");
    assert_eq!(drone.calls("DELETE"), 0);
    let ended = harness.get("/ctrl/backends?key=k&state=ended").await.json();
    assert_eq!(ended["backends"][0]["backend_id"], old.as_str(), "{ended}");
}
