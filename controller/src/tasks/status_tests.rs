//! What `GET /ctrl/status` shows of the tasks.

use serde_json::{Value, json};

use crate::testing::{Harness, eventually};

async fn task(harness: &Harness, name: &str) -> Value {
    let status = harness.get("/ctrl/status").await.json();
    let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
    tasks.into_iter().find(|task| task["name"] == name).unwrap_or_default()
}

#[tokio::test]
async fn status_shows_what_each_task_did_last() {
    let harness = Harness::new().await;
    assert_eq!(
        task(&harness, "events-1").await,
        json!({
            "name": "events-1", "last_started": null, "last_finished": null, "last_result": null,
            "woken_by": null, "runs": 0, "failures": 0,
        })
    );
    crate::tasks::start(&harness.app);
    let status = harness.get("/ctrl/status").await.json();
    let names: Vec<_> = status["tasks"].as_array().unwrap().iter().map(|task| &task["name"]).collect();
    let others =
        ["refresh", "dispatch", "stops", "warm", "return-urls", "prune", "inventory", "release", "watch"];
    let writers = ["renewals", "events-1", "events-2"];
    assert_eq!(json!(names), json!([&writers[..], &others[..]].concat()));
    harness.drone("one").await;
    let ran = |task: &Value| task["runs"].as_u64() > Some(0);
    let watch = eventually("a watch", async || task(&harness, "watch").await, ran).await;
    assert_eq!((&watch["woken_by"], &watch["failures"]), (&json!("start"), &json!(0)));
    assert!(watch["last_result"]["ok"].is_string(), "{watch}");
    assert!(watch["last_started"].as_i64() > Some(1_700_000_000_000), "{watch}");
    assert!(watch["last_started"].as_i64() <= watch["last_finished"].as_i64(), "{watch}");
    let renewals = task(&harness, "renewals").await;
    let expect = (&json!("queue"), &json!({ "ok": "renewed 1 of 1 leases" }));
    assert_eq!((&renewals["woken_by"], &renewals["last_result"]), expect);
    eventually(
        "a refresh",
        async || task(&harness, "refresh").await,
        |refresh| {
            refresh["woken_by"] == "interval" && refresh["last_result"] == json!({ "ok": "read 1 drones" })
        },
    )
    .await;
}

#[tokio::test]
async fn status_shows_why_a_task_failed() {
    let harness = Harness::new().await;
    harness.execute("alter table drones rename to drones_away").await;
    crate::tasks::start(&harness.app);
    let failed = |task: &Value| task["failures"].as_u64() > Some(0);
    let watch = eventually("a failure", async || task(&harness, "watch").await, failed).await;
    let error = watch["last_result"]["error"].as_str().unwrap();
    assert!(error.contains("did not answer as it should") && error.contains("drones"), "{watch}");
}
