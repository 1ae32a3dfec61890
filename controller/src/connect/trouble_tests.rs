//! A connect in trouble: drones that are just starting, answer nonsense, refuse, or end what they began; clients and
//! controllers that go away in the middle.

use std::time::Duration;

use jetway_protocol::drone_api::RefusalCode;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::Status;
use serde_json::{Value, json};

use crate::testing::{FakeDrone, Harness, Mode, eventually, keyed, made_up, registration};

pub(super) fn waiting(seconds: u64) -> Value {
    let mut body = keyed("k");
    (body["wait"], body["wait_timeout_seconds"]) = (json!("ready"), json!(seconds));
    body
}

pub(super) async fn the_backend(drone: &FakeDrone) -> BackendId {
    eventually("a backend", async || drone.ids(), |ids| !ids.is_empty()).await[0].clone()
}

pub(super) async fn live_rows(harness: &Harness) -> i64 {
    let sql = "select count(*) from backends where ended_at is null";
    sqlx::query_scalar(sql).fetch_one(&harness.sql).await.unwrap()
}

#[tokio::test]
async fn what_does_not_answer_the_put_proves_nothing_about_it() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    for (n, code) in [RefusalCode::Unknown, RefusalCode::Unavailable].into_iter().enumerate() {
        drone.set_mode(Mode::Refuse(code));
        let answer = harness.connect(&keyed(&format!("k{n}"))).await;
        assert_eq!((answer.status, &answer.json()["drone_answered"]), (200, &json!(false)), "{code:?}");
    }
    assert_eq!(live_rows(&harness).await, 2, "the drone may have them");
}

#[tokio::test]
async fn a_drone_that_is_unwell_for_a_moment_is_asked_again() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    drone.set_mode(Mode::Refuse(RefusalCode::Unavailable));
    let recovering = async {
        eventually("a PUT", async || drone.calls("PUT"), |calls| *calls > 0).await;
        drone.set_mode(Mode::Usual);
    };
    let body = keyed("k");
    let (answer, ()) = tokio::join!(harness.connect(&body), recovering);
    assert_eq!(answer.json()["drone_answered"], true, "{}", answer.text());
}

#[tokio::test]
async fn a_refusal_after_a_bad_gateway_proves_nothing_and_after_the_drone_s_own_not_now_it_does() {
    for (first, expect) in [(Mode::BehindABadGateway, (200, 1)), (Mode::PutsOff, (503, 0))] {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        drone.set_mode(first);
        let refusing = async {
            eventually("a PUT", async || drone.calls("PUT"), |calls| *calls > 0).await;
            drone.set_mode(Mode::Refuse(RefusalCode::NoCapacity));
        };
        let body = keyed("k");
        let (answer, ()) = tokio::join!(harness.connect(&body), refusing);
        assert_eq!((answer.status, live_rows(&harness).await), expect, "{first:?}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_drone_that_does_not_serve_yet_is_passed_over_once_another_fits() {
    let harness = Harness::new().await;
    let starting = harness.drone("one").await;
    starting.set_mode(Mode::PutsOff);
    let alone = harness.connect(&keyed("k1")).await;
    assert_eq!((alone.status, &alone.json()["drone_answered"]), (200, &json!(false)), "{}", alone.text());
    let other = harness.drone("two").await;
    let asked = starting.calls("PUT");
    // Two drones are chosen from at random: sooner or later the one that starts is the first.
    for n in 2.. {
        let answer = harness.connect(&keyed(&format!("k{n}"))).await;
        let answered = &answer.json()["drone_answered"];
        assert_eq!((answer.status, answered), (200, &json!(true)), "{}", answer.text());
        if starting.calls("PUT") > asked {
            break;
        }
    }
    assert!(!other.ids().is_empty());
    let sql = "select count(*) filter (where ended_at is null), count(*) filter (where ended_at is not null)
               from backends b join drones d on d.id = b.drone_id where d.name = 'one'";
    let found: (i64, i64) = sqlx::query_as(sql).fetch_one(&harness.sql).await.unwrap();
    assert_eq!(found, (1, 1), "the row of the first connect lives, that of the second attempt has ended");
}

#[tokio::test]
async fn drones_that_refuse_are_quoted_and_a_burnt_id_is_not_to_be_tried_again() {
    let harness = Harness::new().await;
    for name in ["one", "two"] {
        harness.drone(name).await.set_mode(Mode::Refuse(RefusalCode::NoCapacity));
    }
    let answer = harness.connect(&keyed("k")).await;
    assert_eq!(answer.outcome(), (503, "no_drone".into()));
    for drone in answer.json()["drones"].as_array().unwrap() {
        assert_eq!(drone["reason"], "refused: NoCapacity", "{}", answer.text());
    }
    let mut chosen = keyed("k");
    chosen["spawn_config"]["id"] = json!("mine");
    let burnt = harness.connect(&chosen).await;
    assert_eq!((burnt.outcome(), burnt.header("retry-after")), ((503, "no_drone".into()), None));
}

#[tokio::test]
async fn a_drone_that_has_just_started_is_waited_for() {
    let harness = Harness::new().await;
    let mut register = registration("one", "127.0.0.1:1");
    let drone = harness.drone_with("one", |given| register = given.clone()).await;
    register.advertise = drone.address.clone();
    let answer = harness.internal("/internal/drones/register", &json!(register)).await.json();
    drone.set_identity(register.drone, jetway_protocol::ids::Term(answer["term"].as_i64().unwrap()));
    let before = harness.app.fleet.table().read_at;
    let starting = async {
        let looked_again = async || harness.app.fleet.table().read_at > before;
        eventually("another look", looked_again, |looked| *looked).await;
        let load = jetway_protocol::controller_api::Load { engine_ok: true, ..Default::default() };
        harness.heartbeat(&drone, load).await;
    };
    let body = keyed("k");
    let (answer, ()) = tokio::join!(harness.connect(&body), starting);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn a_backend_that_was_ready_and_has_ended_is_no_url() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let body = waiting(30);
    let acting = async {
        let id = the_backend(&drone).await;
        drone.advance(&id, Status::Ready);
        drone.advance(&id, Status::Terminated);
    };
    let (answer, ()) = tokio::join!(harness.connect(&body), acting);
    assert_eq!(answer.outcome(), (502, "start_failed".into()), "{}", answer.text());
    assert_eq!(answer.json()["end_reason"], "external");
}

#[tokio::test]
async fn a_line_that_broke_is_no_reason_to_overlook_the_end() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let body = waiting(30);
    let acting = async {
        let id = the_backend(&drone).await;
        drone.advance(&id, Status::Ready);
        drone.advance(&id, Status::Terminated);
        harness.report(&drone).await;
    };
    // It cannot be followed or looked at, as if the agent were starting; its events have reached Postgres.
    drone.set_mode(Mode::Mute);
    let (answer, ()) = tokio::join!(harness.connect(&body), acting);
    assert_eq!(answer.outcome(), (502, "start_failed".into()), "{}", answer.text());
}

#[tokio::test]
async fn a_database_that_fails_meanwhile_leaves_the_url_good() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    drone.set_mode(Mode::Mute);
    let body = waiting(1);
    let acting = async {
        the_backend(&drone).await;
        harness.app.pools.requests.close().await;
    };
    let (answer, ()) = tokio::join!(harness.connect(&body), acting);
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("scheduled")), "{}", answer.text());
}

/// As a restart of Postgres does, to every connection of the connects.
async fn end_connections(harness: &Harness) -> usize {
    let mut held = futures_util::future::join_all((0..4).map(|_| harness.app.pools.hot.acquire())).await;
    let mut pids = Vec::new();
    for connection in held.iter_mut().flatten() {
        let pid = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut **connection).await;
        pids.push(pid.unwrap());
    }
    drop(held);
    let pids: Vec<i32> = pids;
    let end = "select pg_terminate_backend(pid) from unnest($1::int[]) pid";
    sqlx::query(end).bind(&pids).execute(&harness.sql).await.unwrap();
    let left = async || {
        let left = "select count(*) from pg_stat_activity where pid = any($1)";
        let left = sqlx::query_scalar::<_, i64>(left).bind(&pids);
        left.fetch_one(&harness.sql).await.unwrap()
    };
    eventually("their ends", left, |left| *left == 0).await;
    pids.len()
}

#[tokio::test]
async fn a_restart_of_postgres_costs_no_connect_its_answer() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    assert_eq!(harness.connect(&keyed("k")).await.status, 200);
    // To a live key, and to a new one, whose insert is not sent twice.
    for key in ["k", "new"] {
        assert!(end_connections(&harness).await > 1);
        let answer = harness.connect(&keyed(key)).await;
        assert_eq!(answer.status, 200, "{key}: {}", answer.text());
    }
    assert_eq!(drone.ids().len(), 2);
}

#[tokio::test]
async fn a_controller_that_stops_ends_its_waits_with_what_is_known() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let body = waiting(300);
    let acting = async {
        eventually("a follower", async || drone.calls("FOLLOW"), |calls| *calls > 0).await;
        harness.app.lifecycle.token().cancel();
    };
    let both = async { tokio::join!(harness.connect(&body), acting).0 };
    let answer = tokio::time::timeout(Duration::from_secs(20), both).await.expect("it does not wait on");
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("scheduled")));
}

#[tokio::test]
async fn what_goes_on_after_its_client_has_gone_still_counts() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    drone.set_mode(Mode::Silent);
    let free = harness.app.connects.permits.available_permits();
    let body = keyed("k");
    tokio::select! {
        _ = harness.connect(&body) => panic!("the drone says nothing"),
        _ = eventually("a PUT", async || drone.calls("PUT"), |calls| *calls > 0) => {}
    }
    assert_eq!(harness.app.connects.permits.available_permits(), free - 1);
    eventually("its end", async || harness.app.connects.permits.available_permits(), |left| *left == free)
        .await;
}

#[tokio::test]
async fn a_grant_that_is_on_its_way_is_given_up_by_a_revocation() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let id = the_backend_of(&harness.connect(&keyed("k")).await.json());
    drone.set_mode(Mode::Silent);
    let mut bob = keyed("k");
    bob["user"] = json!("bob");
    assert_eq!(harness.connect(&bob).await.json()["drone_answered"], false);
    assert_eq!(harness.app.connects.grants.deliveries.count(), 1);
    let revoke = json!({ "backend_id": id, "user": "bob" }).to_string();
    let answer = harness.send(crate::testing::request("POST", "/ctrl/revoke", &revoke)).await;
    assert_eq!(answer.status, 502, "the drone has not confirmed it");
    drone.set_mode(Mode::Usual);
    eventually("no delivery", async || harness.app.connects.grants.deliveries.count(), |count| *count == 0)
        .await;
    assert_eq!(drone.grants(&id).iter().filter(|grant| grant.user.is_some()).count(), 0);
}

#[tokio::test]
async fn a_crowd_at_a_drone_that_takes_no_grants_yet_is_served() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let id = the_backend_of(&harness.connect(&keyed("k")).await.json());
    drone.set_mode(Mode::TakesNoGrants);
    let crowd = 65 * 64;
    for _ in 0..65 {
        let some = (0..64).map(|_| async { harness.connect(&keyed("k")).await });
        for answer in futures_util::future::join_all(some).await {
            assert_eq!(
                (answer.status, &answer.json()["drone_answered"]),
                (200, &json!(false)),
                "{}",
                answer.text()
            );
        }
    }
    assert_eq!(harness.app.connects.grants.deliveries.count(), crowd);
    drone.set_mode(Mode::Usual);
    eventually("no delivery", async || harness.app.connects.grants.deliveries.count(), |count| *count == 0)
        .await;
    assert_eq!(drone.grants(&id).len(), 1 + crowd);
}

fn the_backend_of(answer: &Value) -> BackendId {
    answer["backend_id"].as_str().unwrap().parse().unwrap()
}

/// A row whose `PUT` was not answered, while the drone has the backend.
async fn unacknowledged(harness: &Harness, drone: &FakeDrone) -> BackendId {
    drone.set_mode(Mode::Refuse(RefusalCode::Unknown));
    let answer = harness.connect(&keyed("k")).await.json();
    let id = the_backend_of(&answer);
    drone.set_mode(Mode::Usual);
    drone.keep(&id, made_up(drone.identity().1, answer["fencing_token"].as_i64().unwrap(), Some("k")));
    harness.execute("update backends set dispatch_until = now() - interval '1 s'").await;
    id
}

async fn acknowledged(harness: &Harness) -> bool {
    let sql = "select acknowledged_at is not null and ended_at is null from backends";
    sqlx::query_scalar(sql).fetch_one(&harness.sql).await.unwrap()
}

#[tokio::test]
async fn a_backend_that_its_drone_has_is_acknowledged_however_late() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    unacknowledged(&harness, &drone).await;
    harness.execute("update backends set created_at = now() - interval '1 minute'").await;
    crate::tasks::dispatch_now(&harness.app).await;
    assert_eq!((drone.calls("DELETE"), acknowledged(&harness).await), (0, true));
}

#[tokio::test]
async fn a_soft_wish_for_an_unacknowledged_backend_stays_soft() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    unacknowledged(&harness, &drone).await;
    harness.execute("update backends set stop_requested = 1").await;
    crate::tasks::dispatch_now(&harness.app).await;
    crate::tasks::stops_now(&harness.app).await;
    let stops: Vec<_> = drone.ids().iter().map(|id| drone.calls(&format!("STOP {id} Soft"))).collect();
    assert_eq!((drone.calls("DELETE"), stops), (0, vec![1]));
}

#[tokio::test]
async fn rows_of_silent_drones_and_unreadable_ones_hold_up_no_other() {
    let harness = Harness::new().await;
    let (gone, drone) = (harness.drone("gone").await, harness.drone("one").await);
    for drone in [&gone, &drone] {
        drone.set_mode(Mode::Refuse(RefusalCode::Unknown));
    }
    let mut n = 0;
    let placed = async || {
        let sql = "select count(*) from backends b join drones d on d.id = b.drone_id group by d.name";
        let counts: Vec<i64> = sqlx::query_scalar(sql).fetch_all(&harness.sql).await.unwrap();
        counts.len() == 2 && counts.iter().all(|count| *count > 1)
    };
    while !placed().await {
        harness.connect(&keyed(&format!("k{n}"))).await;
        n += 1;
    }
    drone.set_mode(Mode::Usual);
    harness
        .execute(
            "with silent as (update drones set last_heartbeat = now() - interval '1 hour' where name = 'gone'),
                  bad as (select min(b.id) as id from backends b join drones d on d.id = b.drone_id
                          where d.name = 'one')
             update backends set dispatch_until = now() - interval '1 s', stop_requested = null,
                    spec = case when backends.id = bad.id then '{}' else spec end
             from bad",
        )
        .await;
    let asked = gone.calls("");
    crate::tasks::dispatch_now(&harness.app).await;
    assert_eq!(gone.calls(""), asked, "it cannot be told anything");
    let sql = "select count(*) from backends b join drones d on d.id = b.drone_id
               where d.name = 'one' and acknowledged_at is null";
    let left: i64 = sqlx::query_scalar(sql).fetch_one(&harness.sql).await.unwrap();
    assert_eq!(left, 1, "only the unreadable one");
}

#[tokio::test]
async fn a_session_that_has_ended_before_postgres_knows_it_is_no_failed_start() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let id = the_backend_of(&harness.connect(&keyed("k")).await.json());
    drone.advance(&id, Status::Ready);
    harness.report(&drone).await;
    drone.set_mode(Mode::Silent);
    let grants = drone.calls("GRANT");
    let ending = async {
        eventually("the grant", async || drone.calls("GRANT"), |calls| *calls > grants).await;
        drone.bury(&id);
        drone.set_mode(Mode::Usual);
    };
    let body = waiting(5);
    let (answer, ()) = tokio::join!(harness.connect(&body), ending);
    assert_eq!(answer.outcome(), (503, "key_stopping".into()), "{}", answer.text());
    assert!(answer.json()["retry_after_ms"].is_number());
}
