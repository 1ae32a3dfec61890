//! Many connects to keys that are live: what they have in common is done once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::Status;
use serde_json::json;

use crate::db::tests::Statements;
use crate::testing::{Answer, FakeDrone, Harness, Mode, keyed};

const KEYS: usize = 4;
const EACH: usize = 8;

fn name(n: usize) -> String {
    format!("k{}", n % KEYS)
}

/// Every key is live; then many ask for each at once. With their answers, how often Postgres was
/// asked.
async fn crowd(harness: &Harness, drone: &FakeDrone, mode: Mode) -> (Vec<Answer>, usize) {
    for n in 0..KEYS {
        harness.connect(&keyed(&name(n))).await;
    }
    for id in drone.ids() {
        drone.advance(&id, Status::Ready);
    }
    harness.report(drone).await;
    drone.set_mode(mode);
    let bodies: Vec<_> = (0..KEYS * EACH).map(|n| keyed(&name(n))).collect();
    let reads = Arc::new(AtomicUsize::new(0));
    let _counting = tracing::subscriber::set_default(Statements::counted_in(&reads));
    let answers = join_all(bodies.iter().map(|body| harness.connect(body))).await;
    (answers, reads.load(Ordering::Relaxed))
}

/// Each got into the session of its key, with a grant of its own.
fn each_has_its_own(drone: &FakeDrone, answers: &[Answer]) {
    for (n, answer) in answers.iter().enumerate() {
        let json = answer.json();
        assert_eq!((answer.status, &json["drone_answered"]), (200, &json!(true)), "{}", answer.text());
        let id: BackendId = json["backend_id"].as_str().unwrap().parse().unwrap();
        assert_eq!(drone.put_of(&id).unwrap().key.unwrap().name, name(n));
        let theirs = drone.grants(&id).into_iter().filter(|grant| json["secret_token"] == grant.secret);
        assert_eq!(theirs.count(), 1);
    }
    assert!(drone.ids().iter().all(|id| drone.grants(id).len() == 1 + EACH));
}

#[tokio::test]
async fn many_connects_at_once_cost_the_drone_few_exchanges_and_each_gets_its_own_answer() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let (answers, reads) = crowd(&harness, &drone, Mode::Usual).await;
    each_has_its_own(&drone, &answers);
    let exchanges = drone.calls("GRANT");
    assert!(exchanges <= KEYS * EACH / 2 && reads <= KEYS * EACH / 2, "{exchanges} exchanges, {reads} reads");
}

#[tokio::test]
async fn a_drone_of_a_version_that_takes_grants_one_by_one_gets_them_so() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let (answers, _) = crowd(&harness, &drone, Mode::BeforeGrantsTogether).await;
    each_has_its_own(&drone, &answers);
    assert_eq!(drone.calls("GRANT "), KEYS * EACH);
}

#[tokio::test]
async fn of_connects_that_are_read_together_an_unreadable_row_fails_only_its_own() {
    let harness = Harness::new().await;
    harness.drone("one").await;
    for n in 0..KEYS {
        harness.connect(&keyed(&name(n))).await;
    }
    harness.execute("update backends set cluster = 'a b' where key_name = 'k1'").await;
    let bodies: Vec<_> = (0..KEYS * EACH).map(|n| keyed(&name(n))).collect();
    let answers = join_all(bodies.iter().map(|body| harness.connect(body))).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.status == 200, name(n) != "k1", "{}", answer.text());
    }
}

#[tokio::test]
async fn a_key_that_has_moved_since_it_was_last_found_is_found_where_it_is_now() {
    let harness = Harness::new().await;
    let (drone, body) = (harness.drone("one").await, keyed("k"));
    harness.connect(&body).await;
    let first = drone.ids()[0].clone();
    drone.advance(&first, Status::Ready);
    harness.report(&drone).await;
    // Now it is known, and guessed right.
    for _ in 0..2 {
        assert_eq!(harness.connect(&body).await.json()["backend_id"], json!(first));
    }
    drone.advance(&first, Status::Terminated);
    harness.report(&drone).await;
    let before = drone.grants(&first).len();
    let second = harness.connect(&body).await.json();
    assert_eq!((&second["spawned"], second["backend_id"] == json!(first)), (&json!(true), false));
    // A drone that lets others in does not decide either.
    harness.execute("update backends set stop_requested = 1 where ended_at is null").await;
    let mut other_tag = body.clone();
    other_tag["key"]["tag"] = json!("other");
    assert_eq!(harness.connect(&other_tag).await.outcome(), (409, "key_held".into()));
    assert_eq!(drone.grants(&first).len(), before, "who asks with another tag is offered nothing");
}

#[tokio::test]
async fn a_guess_that_leads_to_a_silent_drone_holds_nobody_up() {
    let harness = Harness::new().await;
    let (one, body) = (harness.drone("one").await, keyed("k"));
    harness.connect(&body).await;
    let first = one.ids()[0].clone();
    one.advance(&first, Status::Ready);
    harness.report(&one).await;
    harness.connect(&body).await;
    harness.execute("update backends set ended_at = now(), status = 90").await;
    one.set_mode(Mode::Silent);
    let two = harness.drone("two").await;
    harness.execute("update drones set draining = true where name = 'one'").await;
    harness.app.fleet.refresh_on_demand(&harness.app.pools.requests).await.unwrap();
    let begun = std::time::Instant::now();
    let answer = harness.connect(&body).await;
    assert_eq!((answer.status, two.ids().len()), (200, 1), "{}", answer.text());
    assert!(begun.elapsed() < crate::drone::GRANT_DEADLINE, "{:?}", begun.elapsed());
}
