//! The matrix of a connect: what may be there, what the drone may say, and what must come of it. The controller is
//! called as its clients call it, over a real Postgres, with drones that do as told.

use std::time::Duration;

use jetway_protocol::drone_api::RefusalCode;
use jetway_protocol::ids::{BackendId, GrantId};
use jetway_protocol::status::{End, EndReason, Status};
use serde_json::{Value, json};

use crate::testing::{Answer, FakeDrone, Harness, Mode, end, eventually, keyed};

fn id_of(answer: &Answer) -> BackendId {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["backend_id"].as_str().unwrap().parse().unwrap()
}

fn as_user(mut body: Value, user: &str) -> Value {
    body["user"] = json!(user);
    body
}

#[tokio::test]
async fn a_new_key_is_one_row_and_one_put_with_the_caller_s_grant() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let mut body = as_user(keyed("k"), "ann");
    body["auth"] = json!({ "role": "ü" });
    let answer = harness.connect(&body).await;
    let id = id_of(&answer);
    let put = drone.put_of(&id).unwrap();
    let grant = put.grant.unwrap();
    assert_eq!((grant.user.as_deref(), grant.auth.as_str()), (Some("ann"), r#"{"role":"\u00fc"}"#));
    assert_eq!(answer.json()["secret_token"], grant.secret.as_str());
    assert_eq!(put.key.unwrap().name, "k");

    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let content = harness.app.urls.sealer.open(&token).unwrap();
    assert_eq!((content.backend, content.fencing_token, content.grant), (id, put.fencing_token, grant.id));
    assert_eq!(content.drone_address, drone.address);
    assert_eq!((harness.rows().await, drone.calls("PUT")), (1, 1));
}

#[tokio::test]
async fn a_live_key_gives_the_same_backend_and_another_grant() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let first = id_of(&harness.connect(&as_user(keyed("k"), "ann")).await);
    drone.advance(&first, Status::Ready);
    let second = harness.connect(&as_user(keyed("k"), "bob")).await;
    assert_eq!(id_of(&second), first);
    assert_eq!(second.json()["status"], "ready", "the drone knows it before Postgres does");
    assert_eq!((&second.json()["spawned"], &second.json()["drone"]), (&json!(false), &Value::Null));
    assert_eq!(second.json()["drone_answered"], true);
    let users: Vec<_> = drone.grants(&first).into_iter().filter_map(|grant| grant.user).collect();
    assert_eq!(users, ["ann", "bob"]);
    assert_eq!(drone.calls("PUT"), 1);

    let without_config = harness.connect(&json!({ "key": { "name": "k" } })).await;
    assert_eq!(id_of(&without_config), first);
}

#[tokio::test]
async fn a_free_key_without_a_config_and_another_tag_are_conflicts() {
    let harness = Harness::new().await;
    harness.drone("one").await;
    let unheld = harness.connect(&json!({ "key": { "name": "k" } })).await;
    assert_eq!(
        (unheld.outcome(), unheld.json()["kind"].as_str().map(str::to_owned)),
        ((409, "key_unheld".into()), Some("KeyUnheldNoSpawnConfig".into()))
    );
    harness.connect(&keyed("k")).await;
    let mut other = keyed("k");
    other["key"]["tag"] = json!("other");
    assert_eq!(harness.connect(&other).await.outcome(), (409, "key_held".into()));
    let mut elsewhere = keyed("k");
    elsewhere["key"]["namespace"] = json!("n");
    assert_eq!(harness.connect(&elsewhere).await.json()["spawned"], true, "another namespace is another key");
}

#[tokio::test]
async fn without_a_key_every_connect_starts_another_one() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let body = json!({ "spawn_config": { "executable": { "image": "app" } } });
    let (one, two) = (id_of(&harness.connect(&body).await), id_of(&harness.connect(&body).await));
    assert_ne!(one, two);
    let put = drone.put_of(&one).unwrap();
    assert_eq!(put.key, None);
    assert_eq!(put.spec.on_isolation, jetway_protocol::spec::OnIsolation::Keep);
}

#[tokio::test]
async fn fifty_connects_at_once_for_a_new_key_are_one_backend() {
    let harness = Harness::new().await;
    let (one, two) = (harness.drone("one").await, harness.drone("two").await);
    let bodies: Vec<Value> = (0..50).map(|n| as_user(keyed("k"), &format!("user{n}"))).collect();
    let answers = futures_util::future::join_all(bodies.iter().map(|body| harness.connect(body))).await;
    let first = id_of(&answers[0]);
    assert!(answers.iter().all(|answer| id_of(answer) == first));
    let spawned = answers.iter().filter(|answer| answer.json()["spawned"] == true).count();
    assert_eq!((spawned, harness.rows().await), (1, 1));
    // Every URL's grant arrives, at once or by the task that goes on delivering.
    let (owner, other) = if one.ids().is_empty() { (two, one) } else { (one, two) };
    assert!(other.ids().is_empty());
    eventually("grants", async || owner.grants(&first).len(), |grants| *grants == 50).await;
}

#[tokio::test]
async fn a_stopping_key_waits_for_the_end_and_starts_the_next() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let first = id_of(&harness.connect(&keyed("k")).await);
    drone.advance(&first, Status::Ready);
    drone.advance(&first, Status::Terminating);
    // Postgres has not heard of it; the drone says so when asked for the grant.
    let body = keyed("k");
    let ending = async {
        eventually("a follower", async || drone.calls("FOLLOW"), |calls| *calls > 0).await;
        drone.advance(&first, Status::Terminated);
        harness.report(&drone).await;
    };
    let (answer, ()) = tokio::join!(harness.connect(&body), ending);
    assert_ne!(id_of(&answer), first);
    assert_eq!(answer.json()["spawned"], true);
    let pool = &harness.app.pools.requests;
    assert_eq!(pool.free(), pool.limits().connections, "no connection is kept");
}

#[tokio::test]
async fn connects_that_wait_for_an_end_hold_no_connection() {
    // More of them than the controller has connections to Postgres.
    const WAITING: usize = 40;
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let first = id_of(&harness.connect(&keyed("k")).await);
    drone.advance(&first, Status::Terminating);
    let bodies = vec![keyed("k"); WAITING];
    let ending = async {
        eventually("all of them wait", async || drone.calls("FOLLOW"), |calls| *calls >= WAITING).await;
        assert_eq!(harness.connect(&keyed("other")).await.status, 200);
        drone.advance(&first, Status::Terminated);
        harness.report(&drone).await;
    };
    let waiting = futures_util::future::join_all(bodies.iter().map(|body| harness.connect(body)));
    let (answers, ()) = tokio::join!(waiting, ending);
    let next = id_of(&answers[0]);
    assert_ne!(next, first);
    assert!(answers.iter().all(|answer| id_of(answer) == next));
}

#[tokio::test]
async fn a_key_that_does_not_end_in_time_is_a_503_that_says_when() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let id = id_of(&harness.connect(&keyed("k")).await);
    drone.advance(&id, Status::Terminating);
    harness.report(&drone).await;
    let app = &harness.app;
    let wanted = super::validate::check(serde_json::from_value(keyed("k")).unwrap()).unwrap();
    let mut connection = app.pools.requests.acquire().await.unwrap();
    let live = crate::db::backends::live_by_key(&mut connection, wanted.key.as_ref().unwrap())
        .await
        .unwrap()
        .unwrap();
    drop(connection);
    let deadline = tokio::time::Instant::now() + Duration::from_millis(300);
    let Err(error) = super::join::join(&app.connects, &wanted, live, None, deadline).await else {
        panic!("it cannot be joined")
    };
    let body = error.body();
    assert_eq!(body.code.as_str(), "key_stopping");
    assert_eq!(body.kind, jetway_protocol::error::Kind::KeyHeldUnhealthy);
    assert!(body.retry_after_ms.is_some());
}

#[tokio::test]
async fn a_drone_that_refuses_is_passed_over_for_another() {
    let harness = Harness::new().await;
    let (one, two) = (harness.drone("one").await, harness.drone("two").await);
    one.set_mode(Mode::Refuse(RefusalCode::NoCapacity));
    for n in 0..8 {
        let answer = harness.connect(&keyed(&format!("k{n}"))).await;
        assert_eq!(answer.json()["drone"], "two", "{}", answer.text());
    }
    assert_eq!(two.ids().len(), 8);
    let sql = "select count(*) filter (where ended_at is null), count(*) filter (where ended_at is not null) from backends";
    let (live, ended): (i64, i64) = sqlx::query_as(sql).fetch_one(&harness.sql).await.unwrap();
    assert_eq!(live, 8, "what was refused is ended");
    let refused = one.calls("PUT");
    assert!(
        refused > 0 && usize::try_from(ended).unwrap() == refused,
        "each try has an id of its own: {refused} {ended}"
    );

    two.set_mode(Mode::Refuse(RefusalCode::Draining));
    let nowhere = harness.connect(&keyed("last")).await;
    assert_eq!(nowhere.outcome(), (503, "no_drone".into()));
    let mut names: Vec<_> =
        nowhere.json()["drones"].as_array().unwrap().iter().map(|drone| drone["drone"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, [json!("one"), json!("two")]);
}

#[tokio::test]
async fn a_chosen_id_is_used_once() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let mut body = keyed("k");
    body["spawn_config"]["id"] = json!("mine");
    assert_eq!(id_of(&harness.connect(&body).await).as_str(), "mine");
    assert_eq!(harness.connect(&body).await.json()["spawned"], false, "the same key again is joined");
    body["key"]["name"] = json!("other");
    assert_eq!(harness.connect(&body).await.outcome(), (409, "id_taken".into()));
    drone.set_mode(Mode::Refuse(RefusalCode::NoCapacity));
    body["spawn_config"]["id"] = json!("fresh");
    assert_eq!(harness.connect(&body).await.outcome(), (503, "no_drone".into()));
}

#[tokio::test]
async fn a_subdomain_is_one_backend_s_in_its_cluster() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let mut body = keyed("a");
    body["spawn_config"]["subdomain"] = json!("sub");
    let answer = harness.connect(&body).await;
    assert!(answer.json()["url"].as_str().unwrap().starts_with("http://sub.localhost:9090/"));
    let id = id_of(&answer);
    body["key"]["name"] = json!("b");
    assert_eq!(harness.connect(&body).await.outcome(), (409, "subdomain_taken".into()));
    drone.advance(&id, Status::Terminated);
    harness.report(&drone).await;
    assert_eq!(harness.connect(&body).await.status, 200, "free again after the end");
}

#[tokio::test]
async fn a_static_token_is_the_same_for_everybody() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let mut body = keyed("k");
    body["spawn_config"]["use_static_token"] = json!(true);
    let (first, second) = (harness.connect(&body).await, harness.connect(&body).await);
    assert_eq!(first.json()["token"], second.json()["token"]);
    let token = first.json()["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("s."));
    assert_eq!(harness.app.urls.sealer.open(&token[2..]).unwrap().grant, GrantId::STATIC);
    assert_eq!(first.json()["secret_token"], Value::Null);
    let put = drone.put_of(&id_of(&first)).unwrap();
    assert_eq!((put.grant, put.static_token), (None, Some(token)));
    assert_eq!(drone.calls("GRANT"), 1, "the drone holds the backend for the one who comes");
    let named = json!({ "key": { "name": "k" }, "user": "ann" });
    assert_eq!(harness.connect(&named).await.status, 422);
}

#[tokio::test]
async fn a_silent_drone_keeps_its_backend_and_the_caller_has_a_url() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    drone.set_mode(Mode::Silent);
    let answer = harness.connect(&keyed("k")).await;
    let id = id_of(&answer);
    assert_eq!(
        (&answer.json()["drone_answered"], &answer.json()["status"]),
        (&json!(false), &json!("scheduled"))
    );
    let again = harness.connect(&as_user(keyed("k"), "bob")).await;
    assert_eq!((id_of(&again), &again.json()["drone_answered"]), (id.clone(), &json!(false)));

    // Back again: the reconciler repeats the PUT with its first grant, and bob's is still being offered.
    drone.set_mode(Mode::Usual);
    harness.execute("update backends set dispatch_until = now() - interval '1 s'").await;
    crate::tasks::dispatch_now(&harness.app).await;
    assert!(drone.put_of(&id).unwrap().grant.is_some());
    let users = async || drone.grants(&id).into_iter().filter_map(|grant| grant.user).collect::<Vec<_>>();
    eventually("bob's grant", users, |users| users.contains(&"bob".to_owned())).await;
    let kept: Option<Value> =
        sqlx::query_scalar("select first_grant from backends").fetch_one(&harness.sql).await.unwrap();
    assert_eq!(kept, None, "what only the drone needs is forgotten once it has it");
}

#[tokio::test]
async fn nothing_fits_and_nothing_is_offered_are_told_apart() {
    let harness = Harness::new().await;
    let none = harness.connect(&keyed("k")).await;
    assert_eq!(none.outcome(), (503, "no_drone".into()));
    assert!(none.header("retry-after").is_some());
    harness.drone("one").await;
    let with = |field: &str, value: Value| {
        let mut body = keyed("k");
        body["spawn_config"]["executable"][field] = value;
        body
    };
    for body in [
        with("mount", json!("data")),
        with("network_name", json!("other")),
        json!({ "key": { "name": "k" }, "spawn_config": { "executable": { "image": "absent", "pull_policy": "Never" } } }),
    ] {
        let answer = harness.connect(&body).await;
        assert_eq!(answer.outcome(), (422, "not_offered".into()), "{body}");
        assert_eq!(answer.json()["drones"][0]["drone"], "one");
    }
    let big = harness.connect(&with("cpu_reserve", json!(5))).await;
    assert_eq!(big.outcome(), (422, "not_offered".into()), "no drone has five");
    assert_eq!(harness.rows().await, 0);
}

async fn connect_and_wait(harness: &Harness, drone: &FakeDrone, then: impl FnOnce(&BackendId)) -> Answer {
    let mut body = keyed("k");
    body["wait"] = json!("ready");
    let acting = async {
        let ids = eventually("a backend", async || drone.ids(), |ids| !ids.is_empty()).await;
        then(&ids[0]);
    };
    tokio::join!(harness.connect(&body), acting).0
}

#[tokio::test]
async fn waiting_for_ready_ends_with_ready() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let answer = connect_and_wait(&harness, &drone, |id| {
        drone.advance(id, Status::Starting);
        drone.advance(id, Status::Ready);
    });
    let answer = answer.await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("ready")), "{}", answer.text());
}

#[tokio::test]
async fn a_failed_start_under_wait_says_why_and_shows_the_last_output() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let failed = End {
        message: "it exited with status 3".into(),
        output: "no such file".into(),
        exit_code: Some(3),
        ..end(EndReason::ExitedBeforeReady)
    };
    let answer =
        connect_and_wait(&harness, &drone, |id| drone.advance_with(id, Status::Terminated, Some(failed)));
    let answer = answer.await;
    assert_eq!(answer.outcome(), (502, "start_failed".into()));
    let body = answer.json();
    assert_eq!(
        (&body["end_reason"], &body["output"]),
        (&json!("exited_before_ready"), &json!("no such file"))
    );
    assert_eq!(body["kind"], "Other");
}

#[tokio::test]
async fn a_wait_that_runs_out_is_a_200_with_the_state_reached() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let mut body = keyed("k");
    (body["wait"], body["wait_timeout_seconds"]) = (json!("ready"), json!(1));
    let acting = async {
        let ids = eventually("a backend", async || drone.ids(), |ids| !ids.is_empty()).await;
        drone.advance(&ids[0], Status::Loading);
    };
    let (answer, ()) = tokio::join!(harness.connect(&body), acting);
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("loading")));
}

#[tokio::test]
async fn a_drone_that_has_lost_its_backend_is_unhealthy_not_a_dead_url() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let id = id_of(&harness.connect(&keyed("k")).await);
    harness.report(&drone).await;
    drone.forget(&id);
    let wanted = super::validate::check(serde_json::from_value(keyed("k")).unwrap()).unwrap();
    let mut connection = harness.app.pools.requests.acquire().await.unwrap();
    let key = wanted.key.as_ref().unwrap();
    let live = crate::db::backends::live_by_key(&mut connection, key).await.unwrap().unwrap();
    drop(connection);
    let deadline = tokio::time::Instant::now() + Duration::from_millis(100);
    let Err(error) = super::join::join(&harness.app.connects, &wanted, live, None, deadline).await else {
        panic!("joined")
    };
    assert_eq!(error.body().code.as_str(), "key_unhealthy");
}
