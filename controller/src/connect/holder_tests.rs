//! Keys that their drones hold: what is answered without Postgres, and what is not.

use jetway_protocol::ids::BackendId;
use jetway_protocol::status::Status;
use serde_json::{Value, json};

use crate::tasks::{release_now, stops_now};
use crate::testing::{Harness, Member, Mode, keyed, request};

async fn refresh(harness: &Harness) {
    harness.app.fleet.refresh(&harness.app.pools.housekeeping).await.unwrap();
}

/// A drone with a lease, and a session of `k` that was joined once.
async fn held(harness: &Harness) -> (Member, BackendId) {
    let mut member = Member::join(harness, "one").await;
    member.drone.hold_keys();
    let id: BackendId =
        harness.connect(&keyed("k")).await.json()["backend_id"].as_str().unwrap().parse().unwrap();
    member.drone.advance(&id, Status::Ready);
    harness.report(&member.drone).await;
    member.beat(harness).await;
    refresh(harness).await;
    assert_eq!(joined(harness).await, json!(id.as_str()));
    (member, id)
}

/// The backend that a connect to `k` joins; what it says instead.
async fn joined(harness: &Harness) -> Value {
    let answer = harness.connect(&keyed("k")).await.json();
    if answer["spawned"] == false { answer["backend_id"].clone() } else { answer }
}

#[tokio::test]
async fn what_its_drone_holds_is_joined_also_while_postgres_is_away() {
    let harness = Harness::new().await;
    let (member, id) = held(&harness).await;
    harness.app.pools.hot.close().await;
    let before = member.drone.grants(&id).len();
    let answer = harness.connect(&keyed("k")).await.json();
    assert_eq!((&answer["spawned"], &answer["status"]), (&json!(false), &json!("ready")), "{answer}");
    let grants = member.drone.grants(&id);
    assert_eq!(grants.len(), before + 1, "one exchange");
    assert_eq!(grants.last().unwrap().secret, answer["secret_token"]);
    let mut tagged = keyed("k");
    tagged["key"]["tag"] = json!("other");
    for body in [keyed("other"), tagged] {
        assert!(harness.connect(&body).await.status >= 500, "Postgres is asked");
    }
}

#[tokio::test]
async fn what_no_lease_holds_is_read() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let id: BackendId =
        harness.connect(&keyed("k")).await.json()["backend_id"].as_str().unwrap().parse().unwrap();
    drone.advance(&id, Status::Ready);
    harness.report(&drone).await;
    for _ in 0..2 {
        assert_eq!(joined(&harness).await, json!(id.as_str()));
    }
    harness.app.pools.hot.close().await;
    assert!(harness.connect(&keyed("k")).await.status >= 500);
}

#[tokio::test]
async fn what_has_ended_or_was_begun_anew_is_read() {
    let harness = Harness::new().await;
    let (mut member, id) = held(&harness).await;
    // Its agent was restarted: what is known of its term is of no use.
    member.register(&harness).await;
    assert_eq!(joined(&harness).await, json!(id.as_str()));
    member.beat(&harness).await;
    assert_eq!(joined(&harness).await, json!(id.as_str()));
    member.drone.advance(&id, Status::Terminated);
    harness.report(&member.drone).await;
    let next = harness.connect(&keyed("k")).await.json();
    assert!(next["spawned"] == true && next["backend_id"] != id.as_str(), "{next}");
}

#[tokio::test]
async fn a_drone_that_was_said_to_be_dead_holds_nothing() {
    let harness = Harness::new().await;
    let (_says_that_it_holds_it, id) = held(&harness).await;
    let other = Member::join(&harness, "two").await;
    let body = r#"{"confirmed_dead": true}"#;
    let path = format!("/ctrl/c/{}/d/one/forget", harness.app.identity.cluster);
    assert_eq!(harness.send(request("POST", &path, body)).await.status, 200);
    release_now(&harness.app).await;
    refresh(&harness).await;
    let next = harness.connect(&keyed("k")).await.json();
    assert!(next["spawned"] == true && next["backend_id"] != id.as_str(), "{next}");
    assert_eq!(other.drone.ids().len(), 1);
}

#[tokio::test]
async fn a_stop_that_its_drone_has_not_heard_is_no_secret() {
    let harness = Harness::new().await;
    let (member, id) = held(&harness).await;
    let key = serde_json::from_value(keyed("k")["key"].clone()).unwrap();
    assert!(harness.app.connects.keys.recent.guess(&key).is_some());
    member.drone.set_mode(Mode::Forgetful);
    let path = format!("/ctrl/b/{id}/soft-terminate");
    assert_eq!(harness.send(request("POST", &path, "")).await.status, 200);
    assert!(
        harness.app.connects.keys.recent.guess(&key).is_none(),
        "the next connect reads, and waits for the end"
    );
    member.drone.set_mode(Mode::Usual);
    stops_now(&harness.app).await;
    assert_eq!(member.drone.calls("STOP"), 2);
}
