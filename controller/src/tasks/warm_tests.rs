//! The task that looks, against Postgres and drones that do as told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jetway_protocol::controller_api::Load;
use jetway_protocol::spec::Executable;
use jetway_protocol::warm::{Kind, KindLoad, SlotTier, WarmLoad, WarmTargets};
use serde_json::json;

use crate::db::tests::Statements;
use crate::testing::{Answer, FakeDrone, Harness, eventually, keyed, request};

async fn look(harness: &Harness) {
    super::look_now(&harness.app).await;
}

async fn put(harness: &Harness, name: &str, min: u32) -> Answer {
    let body = json!({ "spawn_config": { "executable": { "image": "app" } }, "min": min });
    harness.send(request("PUT", &format!("/ctrl/pools/{name}"), &body.to_string())).await
}

/// What a drone's heartbeat says once it keeps what it was told.
fn load(agent: u128, targets: &WarmTargets, asked: u64) -> Load {
    let kind = |target: &jetway_protocol::warm::WarmTarget| KindLoad {
        kind: Kind::of(target.tier, &target.executable).unwrap(),
        target: target.slots,
        ready: target.slots,
        making: 0,
        asked,
        claimed: asked,
        make_ms: 400,
        unused_ms: 0,
        replenish_ms: 0,
        error: String::new(),
    };
    let warm = WarmLoad {
        targets: targets.fingerprint(),
        agent: Some(uuid::Uuid::from_u128(agent)),
        kinds: targets.targets.iter().map(kind).collect(),
        sandboxes_ready: 0,
    };
    Load { engine_ok: true, images: vec!["app:latest".into()], warm, ..Load::default() }
}

/// So many starts of `app` were asked for, and it was told of no targets.
fn unasked(agent: u128, asked: u64) -> Load {
    let kind = Kind::of(SlotTier::Parked, &Executable::of_image("app")).unwrap();
    let mut load = load(agent, &WarmTargets::default(), 0);
    load.warm.targets = String::new();
    load.warm.kinds = vec![KindLoad {
        kind,
        target: 0,
        ready: 0,
        making: 0,
        asked,
        claimed: 0,
        make_ms: 0,
        unused_ms: 0,
        replenish_ms: 0,
        error: String::new(),
    }];
    load
}

async fn slots(what: &str, drone: &Arc<FakeDrone>, slots: u32) -> WarmTargets {
    let told = async || drone.warm();
    let sum = |told: &WarmTargets| told.targets.iter().map(|target| target.slots).sum::<u32>();
    let fine = |told: &Option<WarmTargets>| told.as_ref().is_some_and(|told| sum(told) == slots);
    eventually(what, told, fine).await.unwrap()
}

#[tokio::test]
async fn a_declared_pool_reaches_the_drones_once_and_its_end_as_well() {
    let harness = Harness::new().await;
    let (one, two) = (harness.drone("one").await, harness.drone("two").await);
    for (drone, agent) in [(&one, 1), (&two, 2)] {
        harness.heartbeat(drone, unasked(agent, 0)).await;
    }
    assert_eq!(put(&harness, "p", 8).await.status, 200);
    look(&harness).await;
    let told = slots("half", &one, 4).await;
    slots("and half", &two, 4).await;
    assert!(told.targets[0].declared);
    look(&harness).await;
    for (drone, agent) in [(&one, 1), (&two, 2)] {
        harness.heartbeat(drone, load(agent, &told, 0)).await;
    }
    look(&harness).await;
    assert_eq!((one.calls("WARM"), two.calls("WARM")), (1, 1), "they show what they were told");
    let answer = harness.get("/ctrl/pools/p").await.json();
    assert_eq!(
        (&answer["ready"], &answer["target"], &answer["drones"][1]["drone"]),
        (&json!(8), &json!(8), &json!("two"))
    );

    harness.send(request("POST", "/ctrl/c/localhost:9090/d/one/drain", "null")).await;
    look(&harness).await;
    slots("a draining drone gives its slots up", &one, 0).await;
    slots("the other one has them all", &two, 8).await;
    harness.send(request("DELETE", "/ctrl/pools/p", "")).await;
    look(&harness).await;
    slots("nothing is declared", &two, 0).await;
    look(&harness).await;
    assert_eq!(harness.value("select count(*)::text from warm_demand").await, "0");
}

#[tokio::test]
async fn a_kind_that_is_asked_for_again_is_learned_and_goes_to_where_its_image_is() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    harness.heartbeat(&drone, unasked(1, 0)).await;
    let mut secret = keyed("k");
    secret["spawn_config"]["executable"]["env"] = json!({ "PASSWORD": "hunter2" });
    secret["spawn_config"]["executable"]["credentials"] = json!({ "username": "u", "password": "hunter2" });
    assert_eq!(harness.connect(&secret).await.status, 200);
    look(&harness).await;
    let row = "select concat(tier, ' ', needs_image, ' ', executable, state) from warm_demand";
    let row = harness.value(row).await;
    assert!(row.starts_with("parked t ") && !row.contains("hunter2"), "{row}");
    for asked in [1, 3] {
        harness.heartbeat(&drone, unasked(1, asked)).await;
        look(&harness).await;
    }
    let told = eventually(
        "slots are wanted",
        async || drone.warm(),
        |told| told.as_ref().is_some_and(|told| !told.targets.is_empty()),
    )
    .await
    .unwrap();
    let target = &told.targets[0];
    assert!(!target.declared && target.slots >= 1 && target.executable.env.is_empty());
    let learned = harness.get("/ctrl/pools").await.json()["learned"][0].clone();
    assert_eq!((&learned["image"], &learned["slots"]), (&json!("app"), &json!(target.slots)));
    let metrics = harness.get("/metrics").await.text();
    assert!(metrics.contains("jetway_warm_wanted{tier=\"parked\""), "{metrics}");

    harness.execute("update warm_demand set state = jsonb_set(state, '{last_arrival}', '0')").await;
    look(&harness).await;
    slots("it has become cold", &drone, 0).await;
    assert_eq!(harness.value("select count(*)::text from warm_demand").await, "0");
}

#[tokio::test]
async fn of_two_controllers_one_looks_at_a_time() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    harness.heartbeat(&drone, unasked(1, 0)).await;
    put(&harness, "p", 3).await;
    let mut connection = harness.app.pools.requests.acquire().await.unwrap();
    let mut other = connection.begin().await.unwrap();
    assert!(crate::db::warm_demand::begin(&mut other).await.unwrap().is_mine);
    look(&harness).await;
    assert!(harness.app.warm.looked.load().kinds.is_empty(), "the other one has the lock");
    other.rollback().await.unwrap();
    look(&harness).await;
    slots("now it is its turn", &drone, 3).await;
}

#[tokio::test]
async fn an_idle_installation_is_one_read_and_sessions_add_nothing() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    harness.heartbeat(&drone, unasked(1, 0)).await;
    let count = Arc::new(AtomicUsize::new(0));
    let _counting = tracing::subscriber::set_default(Statements::counted_in(&count));
    look(&harness).await;
    let idle = count.swap(0, Ordering::Relaxed);
    assert_eq!(idle, 1, "one read, in no transaction");
    assert_eq!(drone.calls("WARM"), 0, "there is nothing to say");
    for n in 0..20 {
        assert_eq!(harness.connect(&keyed(&format!("k{n}"))).await.status, 200);
    }
    assert_eq!(count.swap(0, Ordering::Relaxed), 40, "a read and an insert each, and nothing for the notes");
    look(&harness).await;
    let noted = count.swap(0, Ordering::Relaxed);
    harness.heartbeat(&drone, unasked(1, 20)).await;
    look(&harness).await;
    look(&harness).await;
    count.store(0, Ordering::Relaxed);
    look(&harness).await;
    assert!(count.load(Ordering::Relaxed) <= 6 && noted <= 9, "{noted}, {}", count.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_drone_that_did_not_hear_is_told_again_and_a_changed_password_is_told() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    harness.heartbeat(&drone, unasked(1, 0)).await;
    let with_password = |password: &str| {
        let login = json!({ "username": "u", "password": password });
        json!({ "spawn_config": { "executable": { "image": "app", "credentials": login } }, "min": 2 })
            .to_string()
    };
    harness.send(request("PUT", "/ctrl/pools/p", &with_password("one"))).await;
    drone.set_identity(drone.identity().0, jetway_protocol::ids::Term(0));
    look(&harness).await;
    eventually("it refuses", async || harness.app.warm.told.lock().len(), |told| *told == 0).await;
    let term = harness.value("select term::text from drones").await.parse().unwrap();
    drone.set_identity(drone.identity().0, jetway_protocol::ids::Term(term));
    look(&harness).await;
    let told = slots("told again", &drone, 2).await;
    harness.heartbeat(&drone, load(1, &told, 0)).await;
    look(&harness).await;
    assert_eq!(drone.calls("WARM"), 2);
    harness.send(request("PUT", "/ctrl/pools/p", &with_password("two"))).await;
    look(&harness).await;
    let password = |told: &Option<WarmTargets>| {
        let login = told.as_ref().and_then(|told| told.targets[0].executable.credentials.clone());
        login.is_some_and(|login| login.password == "two")
    };
    eventually("the new password", async || drone.warm(), password).await;
}
