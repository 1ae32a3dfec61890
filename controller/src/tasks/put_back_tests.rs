//! Rows that are put back after a failover has lost them, and the hosts of their sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jetway_protocol::ids::BackendId;

use super::{inventory, prune_now};
use crate::db::drones::Drone;
use crate::testing::hosted::{host_rows, hosted, is_taken, notes, with};
use crate::testing::{FakeDrone, Harness, eventually, keyed, made_up};

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

#[tokio::test]
async fn a_host_whose_backend_lives_again_is_not_forgotten() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    assert_eq!(harness.connect(&hosted("k")).await.status, 200);
    harness.execute("update backends set ended_at = now() - interval '25 h', status = 70").await;
    // As the row of its backend goes.
    harness.execute("update hosts set ended_at = now() - interval '25 h'").await;
    inventory(&harness.app).compare_drone(&row_of(&harness, &drone)).await.unwrap();
    assert_eq!(harness.value("select count(ended_at)::text from hosts").await, "0");
    harness.execute("update hosts set ended_at = now() - interval '25 h'").await;
    assert!(prune_now(&harness.app).await.ends_with("0 hosts"), "its backend lives");
}

/// Both wait for one lock, and the one that came first has the host.
#[tokio::test]
async fn a_put_back_and_a_spawn_at_once_agree_on_a_host() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let (row, task) = (row_of(&harness, &drone), inventory(&harness.app));
    for n in 0..4 {
        let label = format!("h{n}");
        let id = keep(&drone, &format!("lost{n}"), &label).await;
        let body = with(hosted(&format!("new{n}")), "subdomain", label.clone().into());
        let mut held = harness.sql.begin().await.unwrap();
        let lock = "select pg_advisory_xact_lock(hashtextextended($1, 8))";
        sqlx::query(lock).bind(format!("{label}.localhost")).execute(&mut *held).await.unwrap();
        let is_put_back_first = n % 2 == 0;
        let compare = async {
            if !is_put_back_first {
                waiting(&harness, 1).await;
            }
            task.compare_drone(&row).await.unwrap();
        };
        let connect = async {
            if is_put_back_first {
                waiting(&harness, 1).await;
            }
            harness.connect(&body).await
        };
        let release = async {
            waiting(&harness, 2).await;
            held.commit().await.unwrap();
        };
        let ((), answer, ()) = tokio::join!(compare, connect, release);
        let subdomain = subdomain_of(&harness, &id).await;
        if is_put_back_first {
            is_taken(&answer);
            assert_eq!(subdomain, Some(label));
        } else {
            assert_eq!((answer.status, subdomain), (200, None), "{}", answer.text());
        }
    }
}

/// Until so many wait for a host.
async fn waiting(harness: &Harness, count: i64) {
    let sql = "select count(*) from pg_locks
               where locktype = 'advisory' and not granted
                 and database = (select oid from pg_database where datname = current_database())";
    let count_now = async || sqlx::query_scalar::<_, i64>(sql).fetch_one(&harness.sql).await.unwrap();
    eventually("waits for a host", count_now, |found| *found == count).await;
}
