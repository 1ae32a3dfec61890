//! Which of several keys gets a host, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use jetway_protocol::drone_api::RefusalCode;
use jetway_protocol::status::{EndReason, Status};
use serde_json::{Value, json};

use crate::db::tests::Statements;
use crate::tasks::prune_now;
use crate::testing::hosted::{end_ago, host_rows, hosted, id_of, is_taken, notes, with};
use crate::testing::{Harness, Mode, end, keyed};

#[tokio::test]
async fn a_host_is_one_key_s_until_its_hold_is_over() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let id = id_of(&harness.connect(&notes(hosted("a"))).await);
    // In each form, and where it looks like a port's host.
    let of_others =
        [notes(hosted("b")), notes(keyed("b")), with(keyed("b"), "subdomain", json!("debug--notes"))];
    for body in &of_others {
        let refused = harness.connect(body).await;
        is_taken(&refused);
        assert_eq!(refused.json()["retry_after_ms"], Value::Null, "nobody knows when it ends");
        assert_eq!(refused.json()["kind"], "FailedToAcquireKey");
    }
    end_ago(&harness, &drone, &id, "23 h").await;
    for body in &of_others {
        let refused = harness.connect(body).await;
        is_taken(&refused);
        let ms = refused.json()["retry_after_ms"].as_u64().unwrap();
        assert!((3_500_000..=3_600_000).contains(&ms), "{ms}");
    }
    assert_eq!(harness.connect(&notes(keyed("a"))).await.status, 200, "the key has it in either form");
    let id = drone.ids().into_iter().find(|other| *other != id).unwrap();
    end_ago(&harness, &drone, &id, "1 s").await;
    // The row of the host keeps the end of a backend that is forgotten.
    harness
        .execute("update backends set ended_at = ended_at - interval '1 h' where ended_at is not null")
        .await;
    harness.execute("update turns set next_at = now()").await;
    prune_now(&harness.app).await;
    assert_eq!(host_rows(&harness).await, "", "the hold is over");
    let taken = harness.connect(&with(notes(hosted("b")), "return_url", json!("https://b.example/"))).await;
    assert_eq!(taken.json()["spawned"], true, "{}", taken.text());
    is_taken(&harness.connect(&notes(hosted("a"))).await);
}

#[tokio::test]
async fn a_new_owner_inherits_nothing() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let body = with(notes(hosted("a")), "return_url", json!("https://a.example/"));
    let id = id_of(&harness.connect(&body).await);
    end_ago(&harness, &drone, &id, "25 h").await;
    let next = id_of(&harness.connect(&notes(hosted("b"))).await);
    assert_eq!(host_rows(&harness).await, format!("notes b {next}"));
    end_ago(&harness, &drone, &next, "25 h").await;
    let third = id_of(&harness.connect(&body).await);
    assert_eq!(host_rows(&harness).await, format!("notes a {third} https://a.example/"));
    end_ago(&harness, &drone, &third, "1 h").await;
    let fourth = id_of(&harness.connect(&notes(hosted("a"))).await);
    assert_eq!(host_rows(&harness).await, format!("notes a {fourth} https://a.example/"), "its own is kept");
}

#[tokio::test]
async fn the_path_form_holds_a_host_only_while_it_lives() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    for subdomain in ["notes", "debug--notes", "xn--notes"] {
        let id = id_of(&harness.connect(&with(keyed("b"), "subdomain", json!(subdomain))).await);
        let refused = harness.connect(&notes(hosted("a"))).await;
        is_taken(&refused);
        assert!(refused.text().contains(&format!("{subdomain}.localhost:9090")), "{}", refused.text());
        end_ago(&harness, &drone, &id, "0 s").await;
    }
    let id = id_of(&harness.connect(&notes(hosted("a"))).await);
    end_ago(&harness, &drone, &id, "25 h").await;
    // Between themselves they are as they always were.
    assert_eq!(harness.connect(&notes(keyed("c"))).await.status, 200);
    assert_eq!(harness.connect(&with(keyed("d"), "subdomain", json!("x--notes"))).await.status, 200);
    assert_eq!(harness.connect(&notes(keyed("e"))).await.outcome(), (409, "subdomain_taken".into()));
}

#[tokio::test]
async fn of_two_keys_that_take_one_host_at_once_one_gets_it() {
    let harness = Harness::new().await;
    let other = harness.beside().await;
    harness.drone("one").await;
    other.app.fleet.refresh(&other.app.pools.housekeeping).await.unwrap();
    for n in 0..20 {
        let (first, second) = (format!("a{n}"), format!("b{n}"));
        let label = format!("h{n}");
        let behind_a_port = format!("debug--{label}");
        let host_form = with(hosted(&first), "subdomain", json!(label));
        let rival = match n % 3 {
            0 => with(hosted(&second), "subdomain", json!(label)),
            1 => with(keyed(&second), "subdomain", json!(label)),
            _ => with(keyed(&second), "subdomain", json!(behind_a_port)),
        };
        let (one, two) = tokio::join!(harness.connect(&host_form), other.connect(&rival));
        let mut statuses = [one.status, two.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{n}: {} {}", one.text(), two.text());
        let refused = if one.status == 409 { one } else { two };
        is_taken(&refused);
    }
}

#[tokio::test]
async fn a_start_that_was_never_ready_holds_nothing_new() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let refuse = Mode::Refuse(RefusalCode::NoCapacity);
    drone.set_mode(refuse);
    assert_eq!(harness.connect(&notes(hosted("b"))).await.status, 503);
    drone.set_mode(Mode::Usual);
    // The same by an event of its drone.
    let id = id_of(&harness.connect(&notes(hosted("c"))).await);
    is_taken(&harness.connect(&notes(hosted("a"))).await);
    drone.advance_with(&id, Status::Terminated, Some(end(EndReason::PullFailed)));
    harness.report(&drone).await;
    let id = id_of(&harness.connect(&notes(hosted("a"))).await);
    end_ago(&harness, &drone, &id, "23 h").await;
    // Tries in vain make the hold of a key that had the host no longer.
    drone.set_mode(refuse);
    for _ in 0..2 {
        assert_eq!(harness.connect(&notes(hosted("a"))).await.status, 503);
        let refused = harness.connect(&notes(hosted("b"))).await;
        is_taken(&refused);
        let ms = refused.json()["retry_after_ms"].as_u64().unwrap();
        assert!((3_500_000..=3_600_000).contains(&ms), "{ms}");
    }
    harness.execute("update hosts set before_ended_at = now() - interval '24 h'").await;
    drone.set_mode(Mode::Usual);
    assert_eq!(harness.connect(&notes(hosted("b"))).await.status, 200);
}

#[tokio::test]
async fn what_was_never_ready_is_free_also_when_its_row_is_gone() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let id = id_of(&harness.connect(&notes(hosted("a"))).await);
    drone.advance_with(&id, Status::Terminated, Some(end(EndReason::CreateFailed)));
    harness.report(&drone).await;
    harness.execute("update backends set ended_at = now() - interval '25 h'").await;
    assert!(prune_now(&harness.app).await.contains("1 backends and 1 hosts"));
    assert_eq!(host_rows(&harness).await, "");
}

#[tokio::test]
async fn a_crowd_for_one_new_key_leaves_room_for_others() {
    let harness = Harness::new().await;
    harness.drone("one").await;
    assert_eq!(harness.connect(&keyed("live")).await.status, 200);
    for (n, body) in [notes(hosted("a")), with(keyed("b"), "subdomain", json!("plain"))].iter().enumerate() {
        let count = Arc::new(AtomicUsize::new(0));
        let counting = tracing::subscriber::set_default(Statements::counted_in(&count));
        let crowd = join_all((0..500).map(|_| harness.connect(body)));
        let live = keyed("live");
        let beside = join_all((0..50).map(|_| harness.connect(&live)));
        let (crowd, beside) = tokio::join!(crowd, beside);
        drop(counting);
        let id = id_of(&crowd[0]);
        assert!(crowd.iter().all(|answer| id_of(answer) == id), "{n}");
        assert!(beside.iter().all(|answer| answer.status == 200), "{n}");
        let statements = count.load(Ordering::Relaxed);
        assert!(statements < 200, "{n}: {statements} statements");
        assert_eq!(harness.app.connects.hosts.inserting.len(), 0);
    }
    // Each of a crowd that wants another key's host is told so, by few tries.
    let refused = notes(hosted("c"));
    let answers = join_all((0..500).map(|_| harness.connect(&refused))).await;
    answers.iter().for_each(is_taken);
}
