//! Registration as a comparison: what is late, copied or used twice is refused with its reason and changes nothing; a new
//! boot frees what ran in the one before.

use jetway_protocol::ids::DroneId;
use serde_json::json;
use uuid::Uuid;

use super::release_now;
use crate::testing::{Harness, Member, eventually, keyed, request};

async fn terms(harness: &Harness) -> String {
    harness.value("select coalesce(string_agg(term::text, ' ' order by name), '') from drones").await
}

#[tokio::test]
async fn a_register_replaces_what_it_has_seen_and_a_late_one_changes_nothing() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    let before = terms(&harness).await;
    let refused = member.register_once(&harness).await;
    assert_eq!(refused.outcome(), (409, "moved".into()));
    assert!(refused.json()["present"]["seat"]["term"].is_number(), "{}", refused.text());
    let late = member.register.clone();
    assert_eq!(member.register_once(&harness).await.status, 200);
    let after = terms(&harness).await;
    assert_ne!(before, after);
    let copy = harness.internal("/internal/drones/register", &json!(late)).await;
    assert_eq!((copy.outcome(), terms(&harness).await), ((409, "moved".into()), after), "its second copy");

    // A heartbeat, too, is something that it has not seen.
    member.register_once(&harness).await;
    member.beat(&harness).await;
    assert_eq!(member.register_once(&harness).await.outcome(), (409, "moved".into()));
    harness.execute("delete from drones").await;
    let lost = member.register_once(&harness).await;
    assert_eq!((lost.outcome(), &lost.json()["present"]), ((409, "moved".into()), &json!(null)));
    assert_eq!(member.register_once(&harness).await.status, 200, "its row was lost");
}

#[tokio::test]
async fn a_new_boot_frees_what_ran_in_the_one_before_at_once() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    let mut keep = keyed("k");
    keep["spawn_config"]["on_isolation"] = json!("keep");
    assert_eq!(harness.connect(&keep).await.status, 200);
    harness.report(&member.drone).await;
    assert_eq!(member.register(&harness).await.status, 200, "its agent was restarted");
    release_now(&harness.app).await;
    member.beat(&harness).await;
    assert_eq!(harness.connect(&keep).await.json()["spawned"], false, "the same boot: it runs on");

    harness.execute("update drones set last_heartbeat = now() - interval '1 minute'").await;
    member.booted(20_000);
    assert_eq!(member.register(&harness).await.status, 200);
    release_now(&harness.app).await;
    let list = harness.get("/ctrl/backends?state=ended").await.json();
    assert_eq!(list["backends"][0]["end_reason"], "lost", "{list}");
    member.beat(&harness).await;
    assert_eq!(harness.connect(&keep).await.json()["spawned"], true);
    release_now(&harness.app).await;
    assert_eq!(harness.connect(&keep).await.json()["spawned"], false, "what came after the boot stays");
}

#[tokio::test]
async fn two_hosts_two_agents_and_two_drones_with_one_identity_or_name_are_refused_with_the_reason() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    let before = terms(&harness).await;

    let mut elsewhere =
        Member { drone: harness.fake("x").await, register: member.register.clone(), renewal: 0, lease: None };
    elsewhere.booted(3_600_000);
    let refused = elsewhere.register(&harness).await;
    assert_eq!(refused.outcome(), (409, "id_in_use".into()));
    assert!(refused.json()["message"].as_str().unwrap().contains("data directory"), "{}", refused.text());

    let mut namesake =
        Member { drone: harness.fake("y").await, register: member.register.clone(), renewal: 0, lease: None };
    namesake.register.drone = DroneId::random();
    let refused = namesake.register(&harness).await;
    assert_eq!(refused.outcome(), (409, "name_taken".into()));
    assert!(refused.json()["message"].as_str().unwrap().contains("--name"), "{}", refused.text());
    assert_eq!(terms(&harness).await, before, "nothing has changed");

    // A copy on the same host: whoever came last has it, and the other one does not take it back.
    let mut copy =
        Member { drone: harness.fake("z").await, register: member.register.clone(), renewal: 0, lease: None };
    copy.register.agent = Some(Uuid::new_v4());
    assert_eq!(copy.register(&harness).await.status, 200);
    let refused = member.register(&harness).await;
    assert_eq!(refused.outcome(), (409, "id_in_use".into()));
    assert!(refused.json()["message"].as_str().unwrap().contains("another agent"), "{}", refused.text());
    assert_eq!(copy.register(&harness).await.status, 200);
}

#[tokio::test]
async fn a_registration_only_lengthens_what_is_watched_until_its_first_heartbeat() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    let watched = async || {
        harness.value("select (lease_length_ms / 1000)::text from drones where lease_term = term").await
    };
    assert_eq!(watched().await, "600");
    harness.execute("update drones set lease_length_ms = 1200000, lease_margin_ms = 120000").await;
    assert_eq!(member.register(&harness).await.status, 200);
    assert_eq!(watched().await, "1200", "its reply may be lost: then the drone counts by the old terms");
    member.beat(&harness).await;
    assert_eq!(watched().await, "600");
    harness.execute("update drones set lease_length_ms = 60000, lease_margin_ms = 10000").await;
    assert_eq!(member.register(&harness).await.status, 200);
    assert_eq!(watched().await, "600");
}

#[tokio::test]
async fn an_agent_from_before_the_lease_has_none_and_is_never_watched() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    member.register.holds_lease = false;
    assert_eq!(member.register_once(&harness).await.status, 200, "it compares nothing");
    assert_eq!(member.lease, None);
    let watched = "select count(*)::text from drones where lease_term = term";
    assert_eq!(harness.value(watched).await, "0");
    assert_eq!(member.beat(&harness).await.status, 200);
    assert_eq!(harness.value(watched).await, "0");
    // The next version's agent: until it has said what it counts by, it may have no lease at all.
    member.register.holds_lease = true;
    assert_eq!(member.register(&harness).await.status, 200);
    assert_eq!(harness.value(watched).await, "0");
    assert_eq!(member.beat(&harness).await.status, 200);
    assert_eq!(harness.value(watched).await, "1");
}

#[tokio::test]
async fn a_host_that_an_operator_has_declared_dead_may_be_followed_by_another() {
    let harness = Harness::new().await;
    let member = Member::join(&harness, "one").await;
    let mut heir =
        Member { drone: harness.fake("x").await, register: member.register.clone(), renewal: 0, lease: None };
    (heir.register.agent, heir.register.advertise) = (Some(Uuid::new_v4()), heir.drone.address.clone());
    heir.booted(3_600_000);
    assert_eq!(heir.register(&harness).await.outcome(), (409, "id_in_use".into()));
    let path = "/ctrl/c/localhost:9090/d/one/forget";
    let forgotten = harness.send(request("POST", path, r#"{"confirmed_dead":true}"#)).await;
    assert_eq!(forgotten.status, 200);
    assert_eq!(heir.register(&harness).await.status, 200);
    assert_eq!(heir.beat(&harness).await.status, 200);
    assert_eq!(harness.connect(&keyed("k")).await.status, 200);
}

#[tokio::test]
async fn a_drone_that_comes_again_and_again_leaves_no_task_behind() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    assert_eq!(harness.connect(&keyed("k")).await.status, 200);
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut before = 0;
    for turn in 0..20 {
        assert_eq!(member.register(&harness).await.status, 200);
        assert_eq!(member.beat(&harness).await.status, 200);
        harness.report(&member.drone).await;
        // In between Postgres is away for a moment.
        harness.execute("alter table backend_events rename to away").await;
        let (id, term) = member.drone.identity();
        let body = json!({ "term": term, "events": member.drone.events() });
        let failed = harness.internal(&format!("/internal/drones/{id}/events"), &body).await;
        assert_eq!(failed.status, 503, "{}", failed.text());
        harness.execute("alter table away rename to backend_events").await;
        if turn == 4 {
            before = alive();
        }
    }
    eventually("nothing is left of it", async || alive(), |now| *now <= before).await;
}
