//! Rows that are put back after a failover has lost them, and the hosts of their sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jetway_protocol::ids::BackendId;

use super::inventory;
use crate::db::drones::Drone;
use crate::testing::hosted::{host_rows, hosted, is_taken, notes, with};
use crate::testing::{FakeDrone, Harness, keyed, made_up};

/// Lower than what this Postgres gives.
static TOKENS: AtomicI64 = AtomicI64::new(1);

/// A drone that runs a session under a subdomain, of which Postgres knows nothing.
async fn keep(drone: &FakeDrone, name: &str, subdomain: &str) -> BackendId {
    let (id, term) = (name.parse::<BackendId>().unwrap(), drone.identity().1);
    let mut put = made_up(term, TOKENS.fetch_add(1, Ordering::Relaxed), Some(name));
    put.spec.subdomain = Some(subdomain.parse().unwrap());
    drone.keep(&id, put);
    id
}

fn row_of(harness: &Harness, drone: &FakeDrone) -> Arc<Drone> {
    harness.app.fleet.by_id(drone.identity().0).unwrap()
}

async fn subdomain_of(harness: &Harness, id: &BackendId) -> Option<String> {
    let sql = "select subdomain from backends where id = $1 and ended_at is null";
    sqlx::query_scalar(sql).bind(id.as_str()).fetch_one(&harness.sql).await.unwrap()
}

#[tokio::test]
async fn what_is_put_back_has_its_host_and_the_hold() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let id = keep(&drone, "lost", "notes").await;
    inventory(&harness.app).compare_drone(&row_of(&harness, &drone)).await.unwrap();
    assert_eq!(subdomain_of(&harness, &id).await.as_deref(), Some("notes"));
    assert_eq!(host_rows(&harness).await, "notes lost lost");
    is_taken(&harness.connect(&notes(hosted("other"))).await);
    is_taken(&harness.connect(&with(keyed("other"), "subdomain", "debug--notes".into())).await);
    harness.execute("update backends set ended_at = now()").await;
    is_taken(&harness.connect(&notes(hosted("other"))).await);
}

#[tokio::test]
async fn another_key_s_host_is_not_taken_back() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    assert_eq!(harness.connect(&notes(hosted("new"))).await.status, 200);
    let before = host_rows(&harness).await;
    let (same, port) = (keep(&drone, "same", "notes").await, keep(&drone, "port", "debug--notes").await);
    inventory(&harness.app).compare_drone(&row_of(&harness, &drone)).await.unwrap();
    assert_eq!((subdomain_of(&harness, &same).await, subdomain_of(&harness, &port).await), (None, None));
    assert_eq!(host_rows(&harness).await, before);
}

#[tokio::test]
async fn what_lives_comes_before_what_is_held() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    assert_eq!(harness.connect(&notes(hosted("old"))).await.status, 200);
    drone.bury(&drone.ids()[0]);
    harness.execute("update backends set ended_at = now() - interval '1 h', status = 70").await;
    let id = keep(&drone, "lives", "notes").await;
    inventory(&harness.app).compare_drone(&row_of(&harness, &drone)).await.unwrap();
    assert_eq!(host_rows(&harness).await, format!("notes lives {id}"));
}

#[tokio::test]
async fn a_row_that_was_ended_in_error_has_its_host_again() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let mut body = notes(hosted("k"));
    body["return_url"] = "https://app.example/".into();
    assert_eq!(harness.connect(&body).await.status, 200);
    let before = host_rows(&harness).await;
    harness.execute("update backends set ended_at = now() - interval '25 h', status = 70").await;
    inventory(&harness.app).compare_drone(&row_of(&harness, &drone)).await.unwrap();
    assert_eq!((host_rows(&harness).await, drone.ids().len()), (before, 1));
    is_taken(&harness.connect(&notes(hosted("other"))).await);
}

/// Neither waits for the other in a circle, and one host never has two owners.
#[tokio::test]
async fn a_put_back_and_a_spawn_at_once_agree_on_a_host() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let (row, task) = (row_of(&harness, &drone), inventory(&harness.app));
    for n in 0..20 {
        let label = format!("h{n}");
        let id = keep(&drone, &format!("lost{n}"), &label).await;
        let body = with(hosted(&format!("new{n}")), "subdomain", label.clone().into());
        let (compared, answer) = tokio::join!(task.compare_drone(&row), harness.connect(&body));
        compared.unwrap();
        match subdomain_of(&harness, &id).await {
            Some(_) => is_taken(&answer),
            None => assert_eq!(answer.status, 200, "{}", answer.text()),
        }
    }
}
