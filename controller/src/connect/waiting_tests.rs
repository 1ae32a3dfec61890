//! What is said to a caller that waits for `ready`, where something went wrong on the way.

use jetway_protocol::drone_api::RefusalCode;
use jetway_protocol::hint::Hint;
use jetway_protocol::status::Status;
use serde_json::{Value, json};

use super::trouble_tests::{live_rows, the_backend, waiting};
use crate::testing::{Harness, Mode, eventually, keyed, request};

/// The first drone never takes what `body` asks for.
async fn is_started_elsewhere(harness: &Harness, body: &Value) {
    let one = harness.drone("one").await;
    // Something between answers the PUT; the drone itself refuses what comes later.
    one.set_mode(Mode::Refuse(RefusalCode::Unknown));
    let acting = async {
        eventually("a follower", async || one.calls("FOLLOW"), |calls| *calls > 0).await;
        one.set_mode(Mode::Refuse(RefusalCode::Draining));
        let two = harness.drone("two").await;
        harness.execute("update backends set dispatch_until = now() - interval '1 s'").await;
        crate::tasks::dispatch_now(&harness.app).await;
        let id = the_backend(&two).await;
        two.advance(&id, Status::Ready);
        id
    };
    let (answer, id) = tokio::join!(harness.connect(body), acting);
    let json = answer.json();
    assert_eq!((answer.status, &json["drone"], &json["status"]), (200, &json!("two"), &json!("ready")));
    assert_eq!((&json["backend_id"], &json["drone_answered"]), (&json!(id), &json!(true)));
    assert_eq!(live_rows(harness).await, 1);
}

#[tokio::test]
async fn a_backend_that_its_drone_never_took_is_started_elsewhere_for_who_waits() {
    is_started_elsewhere(&Harness::new().await, &waiting(30)).await;
}

#[tokio::test]
async fn what_was_asked_for_by_a_pool_s_name_is_started_elsewhere_too() {
    let harness = Harness::new().await;
    let pool = json!({ "spawn_config": { "executable": { "image": "app" } }, "min": 0, "max": 1 });
    let put = harness.send(request("PUT", "/ctrl/pools/p", &pool.to_string())).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let mut body = waiting(30);
    body.as_object_mut().unwrap().remove("spawn_config");
    body["warm_pool"] = json!("p");
    is_started_elsewhere(&harness, &body).await;
}

#[tokio::test]
async fn a_grant_that_is_still_on_its_way_is_not_said_to_have_arrived() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    harness.connect(&keyed("k")).await;
    let id = the_backend(&drone).await;
    drone.advance(&id, Status::Ready);
    drone.set_mode(Mode::TakesNoGrants);
    let answer = harness.connect(&waiting(5)).await;
    let json = answer.json();
    assert_eq!((answer.status, &json["status"]), (200, &json!("ready")), "{}", answer.text());
    assert_eq!(json["drone_answered"], false);
    drone.set_mode(Mode::Usual);
    eventually("its grant", async || drone.grants(&id).len(), |grants| *grants == 2).await;
    assert_eq!(harness.connect(&waiting(5)).await.json()["drone_answered"], true);
}

#[tokio::test]
async fn what_holds_a_start_up_is_told_wherever_it_is_asked() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let (code, message) =
        ("listens_elsewhere".to_owned(), "the application listens on 0.0.0.0:3000".to_owned());
    let hint = json!({ "code": code, "message": message });
    drone.hold_up(Hint { code, message });
    let answer = harness.connect(&waiting(1)).await;
    assert_eq!((answer.status, &answer.json()["hint"]), (200, &hint), "{}", answer.text());
    let id = answer.json()["backend_id"].as_str().unwrap().to_owned();
    assert_eq!(harness.get(&format!("/ctrl/backends/{id}")).await.json()["hint"], hint);
    assert_eq!(harness.get(&format!("/pub/b/{id}/status")).await.json()["hint"], hint);
    assert_eq!(harness.connect(&keyed("k")).await.json()["hint"], hint, "without a wait");
}

#[tokio::test]
async fn a_start_that_goes_well_has_no_hint() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let answer = harness.connect(&keyed("k")).await.json();
    assert!(answer.get("hint").is_none(), "{answer}");
    drone.advance(&the_backend(&drone).await, Status::Ready);
    assert!(harness.connect(&waiting(1)).await.json().get("hint").is_none());
}
