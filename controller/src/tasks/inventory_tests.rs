//! What a comparison makes of rows and backends that do not agree, alone and beside another
//! controller's.

use jetway_protocol::controller_api::Load;
use jetway_protocol::ids::BackendId;
use serde_json::json;

use super::*;
use crate::tasks::inventory;
use crate::testing::{Harness, Mode, eventually, keyed, made_up, registration};

fn id(text: &str) -> BackendId {
    text.parse().unwrap()
}

#[test]
fn absence_proves_nothing_about_a_row_of_the_inventory_s_term() {
    let row = |name: &str, placed, acknowledged, young| RowOfDrone {
        id: id(name),
        fencing_token: FencingToken(1),
        placed_term: Term(placed),
        acknowledged,
        young,
    };
    let rows = [
        row("old", 1, true, false),
        row("present", 2, true, false),
        row("young", 1, true, true),
        row("unacknowledged", 1, false, false),
        row("there", 1, true, false),
        row("dead", 1, true, false),
    ];
    let entry = |name: &str, status| InventoryEntry {
        id: id(name),
        fencing_token: FencingToken(1),
        key: None,
        status,
    };
    let inventory = Inventory {
        term: Term(2),
        backends: vec![
            entry("there", Status::Ready),
            entry("stranger", Status::Ready),
            entry("dead", Status::Terminated),
        ],
    };
    let found = compare(&inventory, &rows);
    assert_eq!(found.missing, [&rows[0]]);
    assert_eq!(found.unreported, [&rows[1], &rows[5]], "these are asked after, and no more");
    assert_eq!(found.unknown, [&inventory.backends[1]]);
}

#[tokio::test]
async fn an_end_that_nobody_reported_is_believed_the_second_time() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    harness.connect(&keyed("k")).await;
    harness.report(&drone).await;
    harness.execute("update backends set created_at = now() - interval '1 hour'").await;
    drone.bury(&drone.ids()[0]);
    let row = harness.app.fleet.by_id(drone.identity().0).unwrap();
    let task = inventory(&harness.app);
    task.compare_drone(&row).await.unwrap();
    let ended = async || harness.get("/ctrl/backends?state=ended").await.json()["backends"].clone();
    assert_eq!(ended().await, json!([]), "its report may be on its way");
    task.compare_drone(&row).await.unwrap();
    assert_eq!(ended().await[0]["end_reason"], "lost");
    assert_eq!(drone.calls("DELETE"), 0);
}

#[tokio::test]
async fn a_backend_that_ends_while_it_is_put_back_holds_no_key() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let (drone_id, term) = drone.identity();
    drone.keep(&id("racer"), made_up(term, 7001, Some("k")));
    drone.set_mode(Mode::EndsAfterALook);
    let row = harness.app.fleet.by_id(drone_id).unwrap();
    inventory(&harness.app).compare_drone(&row).await.unwrap();
    let list = harness.get("/ctrl/backends?key=k").await.json();
    assert_eq!(list["backends"][0]["end_reason"], "lost", "{list}");
    drone.set_mode(Mode::Usual);
    assert_eq!(harness.connect(&keyed("k")).await.json()["spawned"], true);
}

#[tokio::test]
async fn a_lost_row_is_ended_by_its_drone_s_word_and_strangers_are_put_back_or_deleted() {
    let harness = Harness::new().await;
    let mut register = registration("one", "127.0.0.1:1");
    let drone = harness.drone_with("one", |given| register = given.clone()).await;
    harness.connect(&keyed("k")).await;
    harness.report(&drone).await;
    harness.execute("update backends set created_at = now() - interval '1 hour'").await;
    // The drone comes back, under a new term, without what it had.
    drone.set_mode(Mode::Forgetful);
    register.advertise = drone.address.clone();
    let term = harness.internal("/internal/drones/register", &json!(register)).await.json()["term"].as_i64();
    let term = Term(term.unwrap());
    drone.set_identity(register.drone, term);
    harness.app.fleet.refresh(&harness.app.pools.housekeeping).await.unwrap();
    let row = harness.app.fleet.by_id(register.drone).unwrap();
    inventory(&harness.app).compare_drone(&row).await.unwrap();
    let list = harness.get("/ctrl/backends?state=ended").await.json();
    assert_eq!(list["backends"][0]["end_reason"], "lost", "{list}");

    drone.set_mode(Mode::Usual);
    for id in drone.ids() {
        drone.forget(&id);
    }
    drone.keep(&id("keyed"), made_up(term, 7001, Some("k")));
    drone.keep(&id("rival"), made_up(term, 7002, Some("other")));
    drone.keep(&id("nokey"), made_up(term, 7003, None));
    let load = Load { engine_ok: true, ..Load::default() };
    harness.heartbeat(&drone, load).await;
    assert_eq!(harness.connect(&keyed("other")).await.status, 200);
    inventory(&harness.app).compare_drone(&row).await.unwrap();
    let live = harness.get("/ctrl/backends?state=live&key=k").await.json();
    assert_eq!(live["backends"][0]["backend_id"], "keyed", "{live}");
    assert_eq!(
        (drone.calls("DELETE rival"), drone.calls("DELETE nokey"), drone.calls("DELETE keyed")),
        (1, 0, 0),
        "only one whose key is another's is ownerless"
    );
    let live = harness.get("/ctrl/backends?state=live").await.text();
    assert!(live.contains("nokey"), "{live}");
}

/// Each pair finds a backend without a row, and one of the two puts it back while the other one is
/// about to.
#[tokio::test]
async fn two_comparisons_at_once_delete_nothing() {
    const PAIRS: usize = 100;
    let harness = Harness::new().await;
    let other = harness.beside().await;
    let drone = harness.drone("one").await;
    let (drone_id, term) = drone.identity();
    other.app.fleet.refresh(&other.app.pools.housekeeping).await.unwrap();
    let [here, there] = [&harness, &other].map(|harness| harness.app.fleet.by_id(drone_id).unwrap());
    let (task, others) = (inventory(&harness.app), inventory(&other.app));
    for n in 0..PAIRS {
        let token = 7001 + i64::try_from(n).unwrap();
        drone.keep(&id(&format!("b{n}")), made_up(term, token, Some(&format!("k{n}"))));
        let (one, two) = tokio::join!(task.compare_drone(&here), others.compare_drone(&there));
        one.and(two).unwrap();
    }
    assert_eq!(drone.calls("DELETE"), 0);
    assert_eq!(harness.value("select count(*)::text from backends where ended_at is null").await, "100");
}

#[tokio::test]
async fn a_comparison_keeps_its_turn_until_it_is_through() {
    let harness = Harness::new().await;
    let other = harness.beside().await;
    let drone = harness.drone("one").await;
    other.app.fleet.refresh(&other.app.pools.housekeeping).await.unwrap();
    drone.set_mode(Mode::Silent);
    let (task, others) = (inventory(&harness.app), inventory(&other.app));
    let under_way = task.once(true);
    let meanwhile = async {
        eventually("an inventory", async || drone.calls("INVENTORY"), |calls| *calls == 1).await;
        for forced in [false, true] {
            others.once(forced).await.unwrap();
        }
        assert_eq!(drone.calls("INVENTORY"), 1, "the other one has the turn");
        drone.set_mode(Mode::Usual);
    };
    tokio::join!(async { under_way.await.unwrap() }, meanwhile);
    // The nudge is not lost, and the turn is free.
    tokio::time::timeout(Duration::ZERO, other.app.connects.inventory_nudge.notified()).await.unwrap();
    others.once(true).await.unwrap();
    assert_eq!(drone.calls("INVENTORY"), 2);
}

/// Between the verdict and the delete, the newer backend of the key ends.
#[tokio::test]
async fn a_backend_is_read_again_before_it_is_deleted() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let (drone_id, term) = drone.identity();
    let older = id("older");
    drone.keep(&older, made_up(term, 1, Some("k")));
    assert_eq!(harness.connect(&keyed("k")).await.status, 200);
    let row = harness.app.fleet.by_id(drone_id).unwrap();
    let task = inventory(&harness.app);
    let Look::Lives(view) = task.look(&row, &older, FencingToken(1)).await else { panic!("it lives") };
    assert!(task.is_another_s(&row, &view).await.unwrap());
    harness.execute("update backends set ended_at = now()").await;
    assert!(!task.is_another_s(&row, &view).await.unwrap(), "its key is free by now");
    harness.execute("update backends set ended_at = null").await;
    assert!(task.is_another_s(&row, &view).await.unwrap());
    drone.bury(&older);
    assert!(!task.is_another_s(&row, &view).await.unwrap(), "it has ended by now");
}
