//! An insert of a connect that Postgres does not answer.

use serde_json::json;

use crate::testing::{Harness, keyed};

/// The row is committed, and the answer is lost with the host.
#[tokio::test]
async fn an_insert_without_an_answer_is_looked_for_once() {
    let (harness, relay) = Harness::behind_a_relay().await;
    let drone = harness.drone("one").await;
    // In the spec, which only the insert carries.
    relay.cut_after(r#""image":"#);
    let answer = harness.connect(&keyed("k")).await;
    assert_eq!((answer.status, &answer.json()["spawned"]), (200, &json!(true)), "{}", answer.text());
    assert_eq!((harness.rows().await, drone.calls("PUT"), drone.ids().len()), (1, 1, 1));
}

#[tokio::test]
async fn an_insert_that_never_arrived_starts_nothing() {
    let (harness, relay) = Harness::behind_a_relay().await;
    let drone = harness.drone("one").await;
    relay.lose(r#""image":"#);
    let answer = harness.connect(&keyed("k")).await;
    assert_eq!(answer.outcome(), (503, "database".into()));
    assert!(answer.json()["retry_after_ms"].is_number(), "{}", answer.text());
    assert_eq!((harness.rows().await, drone.calls("PUT")), (0, 0));
    assert_eq!(harness.connect(&keyed("k")).await.json()["spawned"], true);
}
