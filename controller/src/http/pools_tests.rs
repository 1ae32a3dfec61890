//! The pools' routes, and what a connect that names a pool does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jetway_api::backends::ShownSpec;
use jetway_protocol::controller_api::Load;
use jetway_protocol::spec::{BackendSpec, Executable};
use jetway_protocol::warm::{Kind, KindLoad, SlotTier, WarmLoad};
use serde_json::{Value, json};

use crate::app::Access;
use crate::db::tests::Statements;
use crate::testing::{Answer, Harness, request};

async fn put(harness: &Harness, name: &str, body: &Value) -> Answer {
    harness.send(request("PUT", &format!("/ctrl/pools/{name}"), &body.to_string())).await
}

async fn delete(harness: &Harness, name: &str) -> Answer {
    harness.send(request("DELETE", &format!("/ctrl/pools/{name}"), "")).await
}

fn pool() -> Value {
    json!({
        "spawn_config": { "executable": {
            "image": "app", "env": { "PASSWORD": "hunter2" },
            "credentials": { "username": "u", "password": "hunter3" },
        }, "max_idle_seconds": 7 },
        "min": 8, "max": 64,
    })
}

/// A drone's heartbeat in which it shows slots of what serves the image.
fn load_of(image: &str, asked: u64, claimed: u64) -> Load {
    let kind = Kind::of(SlotTier::Parked, &Executable::of_image(image)).unwrap();
    let kinds = vec![KindLoad {
        kind,
        target: 8,
        ready: 7,
        making: 1,
        asked,
        claimed,
        make_ms: 400,
        unused_ms: 90_500,
        replenish_ms: 450,
        error: String::new(),
    }];
    let warm = WarmLoad { agent: Some(uuid::Uuid::from_u128(1)), kinds, ..WarmLoad::default() };
    Load { engine_ok: true, images: vec!["app:latest".into()], warm, ..Load::default() }
}

#[tokio::test]
async fn a_pool_is_put_shown_replaced_and_deleted() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    harness.heartbeat(&drone, load_of("app", 10, 9)).await;
    let answer = put(&harness, "notebooks", &pool()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    insta::assert_json_snapshot!(answer.json(), { ".spawn_config" => "[spec]" }, @r#"
    {
      "claimed": 9,
      "cluster": "localhost:9090",
      "drones": [
        {
          "claimed": 9,
          "drone": "one",
          "error": null,
          "hit_rate": 0.9,
          "make_ms": 400,
          "making": 1,
          "missed": 1,
          "ready": 7,
          "replenish_ms": 450,
          "target": 8,
          "waste_slot_seconds": 90.5
        }
      ],
      "error": null,
      "hash": "6dd8640062e3b7cf9a6ae3594bfe95ef",
      "hit_rate": 0.9,
      "make_ms": 400,
      "making": 1,
      "max": 64,
      "min": 8,
      "missed": 1,
      "name": "notebooks",
      "pool": "",
      "ready": 7,
      "replenish_ms": 450,
      "spawn_config": "[spec]",
      "target": 8,
      "target_hit_rate": 0.99,
      "tier": "parked",
      "waste_slot_seconds": 90.5
    }
    "#);
    let mut spec = BackendSpec::of(Executable::of_image("app"));
    spec.executable.env.insert("PASSWORD".into(), String::new());
    spec.max_idle_seconds = Some(7);
    let mut shown = json!(ShownSpec::of(&spec));
    shown["on_isolation"] = Value::Null;
    assert_eq!(answer.json()["spawn_config"], shown);
    assert_eq!(harness.get("/ctrl/pools/notebooks").await.json(), answer.json());
    let mut other = pool();
    other["max"] = json!(9);
    other["tier"] = json!("parked");
    assert_eq!(put(&harness, "notebooks", &other).await.json()["max"], 9);
    let list = harness.get("/ctrl/pools").await.json();
    assert_eq!((list["pools"].as_array().unwrap().len(), &list["pools"][0]["max"]), (1, &json!(9)));
    assert_eq!(delete(&harness, "notebooks").await.json(), json!({ "deleted": true }));
    for answer in [delete(&harness, "notebooks").await, harness.get("/ctrl/pools/notebooks").await] {
        assert_eq!(answer.outcome(), (404, "pool_not_found".into()));
    }
}

#[tokio::test]
async fn secrets_are_neither_shown_nor_readable_in_the_database() {
    let harness = Harness::new().await;
    let shown = put(&harness, "p", &pool()).await.text() + &harness.get("/ctrl/pools").await.text();
    let stored = harness.value("select concat(encode(sealed, 'escape'), shown) from warm_pools").await;
    assert!(!shown.contains("hunter") && !stored.contains("hunter"), "{shown} {stored}");
    assert!(shown.contains("PASSWORD"), "its name is shown");
    let same = harness.value("select (without_secrets(shown -> 'spec')::text = ((shown -> 'spec') #- '{executable,credentials}')::text)::text from warm_pools").await;
    assert_eq!(same, "true", "shown is what SQL's function would leave");
}

#[tokio::test]
async fn what_no_pool_can_have_is_refused() {
    let harness = Harness::new().await;
    let with = |change: fn(&mut Value)| {
        let mut body = pool();
        change(&mut body);
        body
    };
    for (body, expect) in [
        (with(|b| b["spawn_config"]["id"] = json!("one")), "spawn_config.id"),
        (with(|b| b["spawn_config"]["subdomain"] = json!("one")), "spawn_config.subdomain"),
        (with(|b| b["spawn_config"]["use_static_token"] = json!(true)), "use_static_token"),
        (with(|b| b["spawn_config"]["executable"]["mount"] = json!("m")), "a mount depends on the key"),
        (with(|b| b["spawn_config"]["executable"]["mount"] = json!(true)), "there is no key"),
        (with(|b| b["spawn_config"]["executable"]["pull_policy"] = json!("Always")), "at every start"),
        (with(|b| b["tier"] = json!("hot")), "does not take its session late"),
        (with(|b| b["tier"] = json!("cold")), "tier"),
        (with(|b| b["min"] = json!(-1)), "min is -1"),
        (with(|b| b["max"] = json!(7)), "less than min"),
        (with(|b| b["max"] = json!(10_001)), "max is 10001"),
        (with(|b| b["target_hit_rate"] = json!(1.0)), "target_hit_rate"),
        (with(|b| b["target_hit_rate"] = json!(0.4)), "target_hit_rate"),
        (with(|b| b["colour"] = json!("red")), "colour"),
        (json!({}), "spawn_config"),
    ] {
        let answer = put(&harness, "p", &body).await;
        assert_eq!(answer.outcome(), (422, "invalid_request".into()), "{body}");
        assert!(answer.text().contains(expect), "{expect}: {}", answer.text());
    }
    for name in ["A", "a%20b", &"x".repeat(64)] {
        assert_eq!(put(&harness, name, &pool()).await.status, 422, "{name}");
    }
    assert_eq!(harness.get("/ctrl/pools").await.json(), json!({ "pools": [], "learned": [] }));
}

#[tokio::test]
async fn a_connect_by_a_pool_s_name_starts_what_the_pool_says() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    put(&harness, "p", &pool()).await;
    let by_pool = json!({ "key": { "name": "k" }, "warm_pool": "p" });
    let count = Arc::new(AtomicUsize::new(0));
    let counting = tracing::subscriber::set_default(Statements::counted_in(&count));
    let answer = harness.connect(&by_pool).await;
    drop(counting);
    assert_eq!(count.load(Ordering::Relaxed), 3, "the key, the pool, and the insert");
    assert_eq!((answer.status, &answer.json()["spawned"]), (200, &json!(true)), "{}", answer.text());
    let sent = drone.put_of(&drone.ids()[0]).unwrap().spec;
    assert_eq!(sent.executable.env["PASSWORD"], "hunter2");
    assert_eq!(sent.executable.credentials.unwrap().password, "hunter3");
    assert_eq!(sent.max_idle_seconds, Some(7));
    assert_eq!(sent.on_isolation, jetway_protocol::spec::OnIsolation::Stop, "it has a key");
    let without_key = harness.connect(&json!({ "warm_pool": "p" })).await;
    assert_eq!(without_key.status, 200, "{}", without_key.text());

    let both = json!({ "key": { "name": "n" }, "warm_pool": "p", "spawn_config": { "executable": { "image": "app" } } });
    assert_eq!(harness.connect(&both).await.outcome(), (422, "invalid_request".into()));
    let unknown = json!({ "key": { "name": "n" }, "warm_pool": "q" });
    assert_eq!(harness.connect(&unknown).await.outcome(), (404, "pool_not_found".into()));
    let live = harness.connect(&json!({ "key": { "name": "k" }, "warm_pool": "q" })).await;
    assert_eq!((live.status, &live.json()["spawned"]), (200, &json!(false)), "a live key needs no pool");
}

#[tokio::test]
async fn a_pool_of_another_secret_says_so_and_keeps_no_other_from_working() {
    let harness = Harness::with_access(Access::Open).await;
    harness.drone("one").await;
    put(&harness, "foreign", &pool()).await;
    put(&harness, "own", &pool()).await;
    harness.execute("update warm_pools set sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) where name = 'foreign'").await;
    let list = harness.get("/ctrl/pools").await.json();
    assert!(list["pools"][0]["error"].as_str().unwrap().contains("another secret"), "{list}");
    assert_eq!(list["pools"][1]["error"], Value::Null);
    let by = |name: &str| json!({ "key": { "name": "k" }, "warm_pool": name });
    assert_eq!(harness.connect(&by("foreign")).await.outcome(), (500, "pool_unreadable".into()));
    assert_eq!(harness.connect(&by("own")).await.status, 200);
    crate::tasks::look_now(&harness.app).await;
    assert_eq!(harness.app.warm.looked.load().kinds.len(), 1);
    assert_eq!(put(&harness, "foreign", &pool()).await.status, 200, "putting it again mends it");
    assert_eq!(harness.get("/ctrl/pools/foreign").await.json()["error"], Value::Null);
}
