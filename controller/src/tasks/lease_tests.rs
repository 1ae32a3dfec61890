//! The controller's side of the lease, rule by rule, over a real Postgres and with a clock that the test sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jetway_protocol::drone_api::RefusalCode;
use jetway_protocol::ids::{DroneId, Term};
use jetway_protocol::lease::{LeaseTerms, Seat};
use serde_json::{Value, json};

use super::{each_once, release_now, watch};
use crate::db::leases;
use crate::db::tests::Statements;
use crate::testing::{Harness, Member, Mode, keyed, made_up, request};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Ticks every 30 s, both ends included.
async fn watch_from_to(harness: &Harness, from: u64, to: u64) {
    for now in (from..=to).step_by(30) {
        watch(&harness.app).tick(|| seconds(now)).await.unwrap();
    }
    release_now(&harness.app).await;
    harness.app.fleet.refresh(&harness.app.pools.housekeeping).await.unwrap();
}

async fn state_of(harness: &Harness, drone: usize) -> Value {
    harness.get("/ctrl/drones").await.json()["drones"][drone]["lease"]["state"].clone()
}

async fn ended(harness: &Harness) -> Vec<(String, String)> {
    let list = harness.get("/ctrl/backends?state=ended").await.json();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let of = |backend: &Value| (text(&backend["key"]["name"]), text(&backend["end_reason"]));
    list["backends"].as_array().unwrap().iter().map(of).collect()
}

fn keeping(key: &str) -> Value {
    let mut body = keyed(key);
    body["spawn_config"]["on_isolation"] = json!("keep");
    body
}

#[tokio::test]
async fn a_lease_is_over_after_one_number_was_watched_for_length_and_margin() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    for body in
        [keyed("stop"), keeping("keep"), json!({ "spawn_config": { "executable": { "image": "app" } } })]
    {
        assert_eq!(harness.connect(&body).await.status, 200);
    }
    harness.report(&member.drone).await;
    watch_from_to(&harness, 0, 600).await;
    member.beat(&harness).await;
    watch_from_to(&harness, 630, 1260).await;
    assert_eq!((state_of(&harness, 0).await, ended(&harness).await.len()), (json!("held"), 0));
    watch_from_to(&harness, 1290, 1290).await;
    assert_eq!(state_of(&harness, 0).await, "over");
    assert_eq!(ended(&harness).await, [("stop".to_owned(), "lease_expired".to_owned())], "who keeps, keeps");

    let refused = harness.connect(&keyed("stop")).await;
    assert_eq!(refused.outcome(), (503, "no_drone".into()));
    assert_eq!(refused.json()["drones"][0]["reason"], "has lost its lease, and has not registered anew");
    assert_eq!(member.beat(&harness).await.outcome(), (409, "term".into()), "it has a term that is over");
    assert_eq!(member.register(&harness).await.status, 200);
    assert_eq!(member.beat(&harness).await.status, 200);
    assert_eq!(harness.connect(&keyed("stop")).await.json()["spawned"], true);
    assert_eq!(harness.connect(&keeping("keep")).await.json()["spawned"], false);
}

#[tokio::test]
async fn every_failure_of_postgres_begins_every_watch_anew() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    watch_from_to(&harness, 0, 600).await;
    harness.execute("alter table controllers rename to away").await;
    assert!(watch(&harness.app).tick(|| seconds(630)).await.is_err(), "it can read, and not write");
    harness.execute("alter table away rename to controllers").await;
    watch_from_to(&harness, 660, 1290).await;
    assert_eq!(state_of(&harness, 0).await, "held", "watched since 660 only");

    let interruptions = harness.app.leases.shown().interruptions;
    harness.execute("alter table drones rename column load to away").await;
    member.renewal += 1;
    assert_eq!(member.beat_as(&harness, member.renewal).await.outcome(), (503, "busy".into()));
    harness.execute("alter table drones rename column away to load").await;
    assert_eq!(
        harness.app.leases.shown().interruptions,
        interruptions + 1,
        "a heartbeat's failure counts, too"
    );
    watch_from_to(&harness, 1320, 1350).await;
    assert_eq!(state_of(&harness, 0).await, "held");
}

#[tokio::test]
async fn a_gap_in_its_own_ticks_begins_every_watch_anew() {
    let harness = Harness::new().await;
    Member::join(&harness, "one").await;
    watch_from_to(&harness, 0, 600).await;
    watch(&harness.app).tick(|| seconds(600 + 61)).await.unwrap();
    assert_eq!(state_of(&harness, 0).await, "held");
}

#[tokio::test]
async fn the_end_names_the_seat_and_the_timeline_that_were_watched() {
    let harness = Harness::new().await;
    let member = Member::join(&harness, "one").await;
    let (drone, term) = member.drone.identity();
    let mut c = harness.app.pools.leases.acquire().await.unwrap();
    let seat = Seat { term, renewal: member.renewal };
    for (seat, timeline) in [
        (Seat { renewal: seat.renewal - 1, ..seat }, 1),
        (Seat { term: Term(term.0 - 1), ..seat }, 1),
        (seat, 2),
    ] {
        assert_eq!(leases::end(&mut c, drone, seat, timeline).await.unwrap(), None);
    }
    let over = leases::end(&mut c, drone, seat, 1).await.unwrap().unwrap();
    assert!(over > term, "the drone does not know this term");
    assert_eq!(leases::end(&mut c, drone, seat, 1).await.unwrap(), None, "once");
}

#[tokio::test]
async fn nothing_is_placed_on_a_drone_whose_lease_is_over_whatever_a_copy_says() {
    let harness = Harness::new().await;
    let member = Member::join(&harness, "one").await;
    let (drone, term) = member.drone.identity();
    let mut c = harness.app.pools.leases.acquire().await.unwrap();
    leases::end(&mut c, drone, Seat { term, renewal: member.renewal }, 1).await.unwrap().unwrap();
    assert_eq!(harness.connect(&keyed("k")).await.status, 503);
    assert_eq!((harness.rows().await, member.drone.calls("PUT")), (0, 0));
}

#[tokio::test]
async fn a_row_of_an_older_term_that_was_inserted_late_is_ended_too() {
    let harness = Harness::new().await;
    let member = Member::join(&harness, "one").await;
    assert_eq!(harness.connect(&keyed("k")).await.status, 200);
    let (drone, term) = member.drone.identity();
    let mut c = harness.app.pools.leases.acquire().await.unwrap();
    // As if its insert had been under way while the lease was ended and looked after.
    harness.execute("update backends set drone_id = gen_random_uuid()").await;
    leases::end(&mut c, drone, Seat { term, renewal: member.renewal }, 1).await.unwrap().unwrap();
    release_now(&harness.app).await;
    harness.execute("update backends set drone_id = (select id from drones)").await;
    release_now(&harness.app).await;
    assert_eq!(ended(&harness).await, [("k".to_owned(), "lease_expired".to_owned())]);
}

#[tokio::test]
async fn a_heartbeat_is_acknowledged_only_if_its_row_was_written() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    let mut other = Member::join(&harness, "two").await;
    let mut transaction = harness.sql.begin().await.unwrap();
    sqlx::query("select 1 from drones where name = 'one' for update")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let (locked, free) = tokio::join!(member.beat_as(&harness, 7), other.beat(&harness));
    assert_eq!((locked.outcome(), free.status), ((503, "busy".into()), 200), "nobody waits for a locked row");
    let freeing = async {
        tokio::time::sleep(Duration::from_millis(70)).await;
        transaction.rollback().await.unwrap();
    };
    let (answer, ()) = tokio::join!(member.beat_as(&harness, 8), freeing);
    assert_eq!(answer.status, 200, "it was in the next batch: {}", answer.text());
    member.renewal = 8;
    assert_eq!(
        member.beat_as(&harness, 7).await.outcome(),
        (503, "busy".into()),
        "a late one counts for nothing"
    );
    let (id, term) = member.drone.identity();
    member.drone.set_identity(id, Term(term.0 - 1));
    assert_eq!(member.beat_as(&harness, 9).await.outcome(), (409, "term".into()));
    member.drone.set_identity(DroneId::random(), term);
    assert_eq!(member.beat_as(&harness, 9).await.outcome(), (409, "term".into()), "there is no such drone");
}

#[tokio::test]
async fn heartbeats_that_come_together_are_one_statement() {
    let harness = Harness::new().await;
    let mut members = Vec::new();
    for n in 0..20 {
        members.push(Member::join(&harness, &format!("d{n}")).await);
    }
    let count = Arc::new(AtomicUsize::new(0));
    let _counting = tracing::subscriber::set_default(Statements::counted_in(&count));
    let beats = members.iter().map(|member| member.beat_as(&harness, 2));
    let answers = futures_util::future::join_all(beats).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(count.load(Ordering::Relaxed) <= 2, "{} statements for 20 drones", count.load(Ordering::Relaxed));
}

/// What ten drones and one controller ask of Postgres in a round of everything, beside this many idle sessions.
async fn statements_of_a_round(sessions: usize) -> usize {
    let harness = Harness::new().await;
    let mut members = Vec::new();
    for n in 0..10 {
        members.push(Member::join(&harness, &format!("d{n}")).await);
    }
    for n in 0..sessions {
        let (drone, term) = members[n % 10].drone.identity();
        let id = format!("s{n}");
        sqlx::query(
            "insert into backends (id, fencing_token, cluster, drone_id, drone_term, status, acknowledged_at, created_at)
             values ($1, $2, 'localhost:9090', $3, $4, 50, now(), now() - interval '1 hour')",
        )
        .bind(&id)
        .bind(i64::try_from(n + 1).unwrap())
        .bind(drone.0)
        .bind(term.0)
        .execute(&harness.sql)
        .await
        .unwrap();
        let put = made_up(term, i64::try_from(n + 1).unwrap(), None);
        members[n % 10].drone.keep(&id.parse().unwrap(), put);
    }
    let count = Arc::new(AtomicUsize::new(0));
    let _counting = tracing::subscriber::set_default(Statements::counted_in(&count));
    let beats = members.iter().map(|member| member.beat_as(&harness, 2));
    futures_util::future::join_all(beats).await;
    each_once(&harness.app, seconds(1)).await;
    assert_eq!(ended(&harness).await, [], "they are idle, no more");
    count.load(Ordering::Relaxed)
}

#[tokio::test]
async fn idle_sessions_cost_no_statement() {
    let (few, many) = (statements_of_a_round(10).await, statements_of_a_round(1000).await);
    assert_eq!(few, many);
}

#[tokio::test]
async fn a_repeated_put_is_of_the_row_s_new_term_and_a_refusal_of_it_ends_nothing() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    member.drone.set_mode(Mode::Silent);
    assert_eq!(harness.connect(&keyed("k")).await.status, 200);
    assert_eq!(member.register(&harness).await.status, 200);
    member.beat(&harness).await;
    member.drone.set_mode(Mode::Refuse(RefusalCode::Unavailable));
    harness.execute("update backends set dispatch_until = now() - interval '1 second'").await;
    super::dispatch_now(&harness.app).await;
    let row = "select concat(b.drone_term = d.term, ' ', puts_sent, ' ', ended_at is null)
               from backends b join drones d on d.id = b.drone_id";
    assert_eq!(harness.value(row).await, "t 2 t");
    let id = harness.value("select id from backends").await.parse().unwrap();
    let mut c = harness.app.pools.requests.acquire().await.unwrap();
    let dispatcher: uuid::Uuid =
        sqlx::query_scalar("select dispatcher from backends").fetch_one(&mut *c).await.unwrap();
    let freed = crate::db::ends::end_refused(&mut c, &id, dispatcher, "no").await.unwrap();
    assert!(!freed, "the first PUT may still be on its way");
}

#[tokio::test]
async fn a_put_of_a_term_that_is_over_is_refused_for_good_and_another_id_is_tried() {
    let harness = Harness::new().await;
    let member = Member::join(&harness, "one").await;
    member.drone.set_mode(Mode::RefuseOnce(RefusalCode::WrongTerm));
    let answer = harness.connect(&keyed("k")).await;
    assert_eq!((answer.status, &answer.json()["drone_answered"]), (200, &json!(true)), "{}", answer.text());
    assert_eq!(ended(&harness).await, [("k".to_owned(), "refused".to_owned())]);
    assert_eq!(member.drone.calls("PUT"), 2);
}

#[tokio::test]
async fn a_lease_of_another_length_is_watched_for_that_length() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    member.lease = Some(LeaseTerms::of_length(seconds(120)).unwrap());
    member.beat(&harness).await;
    for now in (0..=140).step_by(10) {
        watch(&harness.app).tick(|| seconds(now)).await.unwrap();
    }
    assert_eq!(state_of(&harness, 0).await, "over", "the row has taken over what the drone counts by");
}

#[tokio::test]
async fn on_isolation_is_the_first_spawn_s_and_stop_needs_a_key() {
    let harness = Harness::new().await;
    let member = Member::join(&harness, "one").await;
    let kept = async |key: &str, body: Value| {
        let answer = harness.connect(&body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let shown = harness.get(&format!("/ctrl/backends?key={key}")).await.json();
        let id = shown["backends"][0]["backend_id"].as_str().unwrap().to_owned();
        let spec = harness.get(&format!("/ctrl/backends/{id}")).await.json()["spec"].clone();
        let told = member.drone.put_of(&id.parse().unwrap()).unwrap().spec.on_isolation;
        assert_eq!(spec["on_isolation"], json!(told));
        told
    };
    use jetway_protocol::spec::OnIsolation::{Keep, Stop};
    assert_eq!(kept("a", keyed("a")).await, Stop, "the default with a key");
    assert_eq!(kept("a", keeping("a")).await, Stop, "the first spawn has decided");
    assert_eq!(kept("b", keeping("b")).await, Keep);
    let mut unkeyed = keeping("c");
    unkeyed["key"] = Value::Null;
    unkeyed["spawn_config"]["on_isolation"] = json!("stop");
    assert_eq!(harness.connect(&unkeyed).await.outcome(), (422, "invalid_request".into()));
}

#[tokio::test]
async fn on_a_drone_without_a_lease_every_key_keeps_and_so_does_what_init_becomes() {
    let harness = Harness::new().await;
    let keeps = "select string_agg(keeps::text, ',' order by key_name) from backends";
    harness.drone("from-before").await;
    assert_eq!(harness.connect(&keyed("a")).await.status, 200);
    assert_eq!(harness.value(keeps).await, "true", "its agent ends nothing");

    let harness = Harness::new().await;
    Member::join(&harness, "one").await;
    let mut alone = keyed("a");
    alone["spawn_config"]["executable"]["init"] = json!("exec");
    assert_eq!(harness.connect(&alone).await.status, 200);
    assert_eq!(harness.connect(&keyed("b")).await.status, 200);
    assert_eq!(harness.value(keeps).await, "true,false");
    alone["key"]["name"] = json!("c");
    alone["spawn_config"]["on_isolation"] = json!("stop");
    assert_eq!(harness.connect(&alone).await.outcome(), (422, "invalid_request".into()));
}

#[tokio::test]
async fn forget_frees_every_key_of_a_drone_and_must_be_meant() {
    let harness = Harness::new().await;
    let mut member = Member::join(&harness, "one").await;
    for body in [keyed("stop"), keeping("keep")] {
        assert_eq!(harness.connect(&body).await.status, 200);
    }
    let forget = async |drone: &str, body: &str| {
        let path = format!("/ctrl/c/localhost:9090/d/{drone}/forget");
        harness.send(request("POST", &path, body)).await
    };
    for body in ["", "{}", r#"{"confirmed_dead":false}"#] {
        let answer = forget("one", body).await;
        assert_eq!(answer.outcome(), (422, "invalid_request".into()), "{body}");
        assert!(answer.json()["message"].as_str().unwrap().contains("power its host off"));
    }
    assert_eq!(forget("two", r#"{"confirmed_dead":true}"#).await.outcome(), (404, "drone_not_found".into()));
    assert_eq!(forget("one", r#"{"confirmed_dead":true,"x":1}"#).await.status, 422);
    assert_eq!(forget("one", r#"{"confirmed_dead":true}"#).await.text(), r#"{"forgotten":true}"#);
    // A connect that comes before the reconciler waits for it, and gives no dead URL.
    let other = Member::join(&harness, "two").await;
    let freeing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        release_now(&harness.app).await;
    };
    let body = keyed("stop");
    let (answer, ()) = tokio::join!(harness.connect(&body), freeing);
    assert_eq!((answer.status, &answer.json()["drone"]), (200, &json!("two")), "{}", answer.text());
    assert_eq!(other.drone.calls("PUT"), 1);
    let mut ends = ended(&harness).await;
    ends.sort();
    assert_eq!(ends, [("keep".to_owned(), "lost".to_owned()), ("stop".to_owned(), "lost".to_owned())]);
    assert_eq!(state_of(&harness, 0).await, "forgotten");
    // What comes in its place may have its name.
    let mut heir = Member::join(&harness, "one").await;
    assert_eq!(heir.beat(&harness).await.status, 200);
    assert_eq!(member.register(&harness).await.outcome(), (409, "name_taken".into()));
}
