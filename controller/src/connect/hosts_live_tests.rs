//! Connects in the host form to keys that live: their reads and writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use jetway_protocol::status::Status;
use serde_json::{Value, json};

use crate::db::tests::Statements;
use crate::tasks::return_urls_now;
use crate::testing::hosted::{host_rows, hosted, id_of, notes, with};
use crate::testing::{Harness, Member};

/// The versions of all rows: they change with each write and each lock of a row.
async fn written(harness: &Harness) -> String {
    let sql = "select concat((select string_agg(concat(xmin, ' ', xmax), ',') from hosts), ' ',
                             (select string_agg(concat(xmin, ' ', xmax), ',') from backends))";
    harness.value(sql).await
}

#[tokio::test]
async fn a_live_key_writes_nothing_in_the_steady_state() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let body = with(notes(hosted("k")), "return_url", json!("https://app.example/"));
    let id = id_of(&harness.connect(&body).await);
    drone.advance(&id, Status::Ready);
    harness.report(&drone).await;
    let before = written(&harness).await;
    let count = Arc::new(AtomicUsize::new(0));
    let counting = tracing::subscriber::set_default(Statements::counted_in(&count));
    assert_eq!(id_of(&harness.connect(&body).await), id);
    assert_eq!(count.swap(0, Ordering::Relaxed), 1, "one read, of the key");
    // A controller that has just started reads once more, for a whole crowd.
    for _ in 0..2 {
        harness.app.connects.hosts.known.forget_all();
        let answers = join_all((0..50).map(|_| harness.connect(&body))).await;
        assert!(answers.iter().all(|answer| id_of(answer) == id));
        assert_eq!(harness.app.connects.hosts.looking.len(), 0);
    }
    // How many go together depends on the machine; each by itself would read twice.
    assert!(count.load(Ordering::Relaxed) < 60, "{count:?}");
    drop(counting);
    let other = harness.beside().await;
    other.app.fleet.refresh(&other.app.pools.housekeeping).await.unwrap();
    for controller in [&harness, &other] {
        controller.app.connects.hosts.known.forget_all();
        assert_eq!(id_of(&controller.connect(&body).await), id);
        return_urls_now(&controller.app).await;
    }
    assert_eq!(written(&harness).await, before, "no row was written or locked");
}

#[tokio::test]
async fn a_key_that_its_drone_holds_is_joined_while_postgres_is_away() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    member.drone.hold_keys();
    let body = with(hosted("k"), "return_url", json!("https://app.example/"));
    let id = id_of(&harness.connect(&body).await);
    member.drone.advance(&id, Status::Ready);
    harness.report(&member.drone).await;
    member.beat(&harness).await;
    assert_eq!(id_of(&harness.connect(&body).await), id);
    harness.app.pools.hot.close().await;
    let answer = harness.connect(&body).await;
    assert_eq!(id_of(&answer), id);
    assert!(answer.json()["url"].as_str().unwrap().contains("/.jetway/enter?token="), "{}", answer.text());
    // Hosts that are not known to be written have to be read.
    harness.app.connects.hosts.known.forget_all();
    assert_eq!(harness.connect(&body).await.status, 503);
}

#[tokio::test]
async fn the_last_return_url_counts() {
    let harness = Harness::new().await;
    let other = harness.beside().await;
    harness.drone("one").await;
    other.app.fleet.refresh(&other.app.pools.housekeeping).await.unwrap();
    let to = |url: &str| with(hosted("k"), "return_url", json!(url));
    let url = async || harness.value("select return_url from hosts").await;
    assert_eq!(harness.connect(&to("https://app.example/1")).await.status, 200);
    assert_eq!(url().await, "https://app.example/1", "with the row of its session");
    // The same one again, at a controller that has given it before.
    for (controller, n) in [(&other, 2), (&harness, 1), (&other, 2), (&harness, 4)] {
        assert_eq!(controller.connect(&to(&format!("https://app.example/{n}"))).await.status, 200);
        return_urls_now(&controller.app).await;
        assert_eq!(url().await, format!("https://app.example/{n}"));
    }
    assert_eq!(harness.connect(&hosted("k")).await.status, 200);
    return_urls_now(&harness.app).await;
    assert_eq!(url().await, "https://app.example/4", "a connect without one leaves it");
    // Each visit another one: all of them are one write.
    let visits: Vec<Value> = (0..50).map(|n| to(&format!("https://app.example/visit/{n}"))).collect();
    for visit in &visits {
        assert_eq!(harness.connect(visit).await.status, 200);
    }
    let said = return_urls_now(&harness.app).await;
    assert_eq!(said, "wrote 1 of 1 return URLs");
    assert_eq!(url().await, "https://app.example/visit/49");
}

#[tokio::test]
async fn what_a_failover_may_have_lost_is_read_again() {
    let harness = Harness::new().await;
    harness.drone("one").await;
    let tick = async |seconds| {
        let now = std::time::Duration::from_secs(seconds);
        crate::tasks::watch(&harness.app).tick(|| now).await.unwrap();
    };
    tick(0).await;
    let body = notes(hosted("k"));
    let id = id_of(&harness.connect(&body).await);
    // The new primary never had the row of the host.
    harness.execute("delete from hosts").await;
    assert_eq!(harness.connect(&body).await.status, 200);
    assert_eq!(host_rows(&harness).await, "", "it is known to be written");
    harness
        .execute("create or replace function jetway_timeline() returns bigint language sql stable as $$ select 2::bigint $$")
        .await;
    tick(2).await;
    assert_eq!(id_of(&harness.connect(&body).await), id);
    assert_eq!(host_rows(&harness).await, format!("notes k {id}"));
}
