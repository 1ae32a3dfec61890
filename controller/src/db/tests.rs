//! What the queries may cost: none reads a whole table that grows, none sorts, and a connect makes as few as it must.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jetway_protocol::controller_api::BackendEvent;
use jetway_protocol::ids::{BackendId, FencingToken};
use jetway_protocol::key::Key;
use jetway_protocol::status::{Status, StatusEntry};
use jetway_protocol::time::UnixMicros;
use sqlx::{AssertSqlSafe, Row};
use tracing::span;
use uuid::Uuid;

use super::events::Report;
use super::{
    Connection, backends, dispatch, drones, ends, events, leases, list, proxies, releases, warm_pools,
};
use crate::testing::{Harness, keyed};

#[tokio::test]
async fn hot_queries_use_indexes_and_never_sort() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let (drone_id, _) = drone.identity();
    let id: BackendId = "nobody".parse().unwrap();
    let key = Key { name: "k".into(), namespace: String::new(), tag: String::new() };
    let mut c = harness.app.pools.requests.acquire().await.unwrap();
    backends::live_by_key(&mut c, &key).await.unwrap();
    backends::live_by_keys(&mut c, &[&key, &key]).await.unwrap();
    backends::has_ended(&mut c, &id).await.unwrap();
    ends::end_refused(&mut c, &id, Uuid::new_v4(), "").await.unwrap();
    dispatch::acknowledge(&mut c, &id, FencingToken(1)).await.unwrap();
    dispatch::live_of_drone(&mut c, drone_id, 1.0, FencingToken(0), 10).await.unwrap();
    events::of_backend(&mut c, &id).await.unwrap();
    list::details(&mut c, &id).await.unwrap();
    drones::address(&mut c, drone_id).await.unwrap();
    proxies::prune(&mut c, Duration::from_secs(1)).await.unwrap();
    warm_pools::sealed(&mut c, &"p".parse().unwrap()).await.unwrap();

    // The tables are empty, where a sequential scan would be the right choice; what needs one even when it is dear
    // has no index. Bitmap scans lose the order of small indexes.
    for setting in ["plan_cache_mode = force_generic_plan", "enable_seqscan = off", "enable_bitmapscan = off"]
    {
        sqlx::query(AssertSqlSafe(format!("set {setting}"))).execute(&mut *c).await.unwrap();
    }
    let sql = "select name, statement, cardinality(parameter_types) as parameters from pg_prepared_statements
               where statement ~ '(backends|drones|proxies|backend_events|warm_pools)'";
    let prepared = sqlx::raw_sql(sql).fetch_all(&mut *c).await.unwrap();
    assert!(prepared.len() >= 10, "{} statements", prepared.len());
    for row in prepared {
        let (name, statement): (String, String) = (row.get("name"), row.get("statement"));
        let nulls = vec!["null"; usize::try_from(row.get::<i32, _>("parameters")).unwrap()].join(", ");
        let explain = AssertSqlSafe(format!("explain execute {name} ({nulls})"));
        let plan = sqlx::raw_sql(explain).fetch_all(&mut *c).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|line| line.get(0)).collect();
        let plan = plan.join("\n");
        assert!(!plan.contains("Seq Scan") && !plan.contains("Sort"), "{statement}\n{plan}");
    }
}

/// Counts what sqlx says it has sent.
pub struct Statements(Arc<AtomicUsize>);

impl Statements {
    pub fn counted_in(count: &Arc<AtomicUsize>) -> Self {
        Self(count.clone())
    }
}

impl tracing::Subscriber for Statements {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_connect_is_one_read_and_for_a_new_key_one_insert() {
    let harness = Harness::new().await;
    harness.drone("one").await;
    let count = Arc::new(AtomicUsize::new(0));
    let _counting = tracing::subscriber::set_default(Statements::counted_in(&count));
    assert_eq!(harness.connect(&keyed("k")).await.status, 200);
    assert_eq!(count.swap(0, Ordering::Relaxed), 2, "a new key: one read, one insert");
    assert_eq!(harness.connect(&keyed("k")).await.status, 200);
    assert_eq!(count.swap(0, Ordering::Relaxed), 1, "a live key: one read");
}

/// The plan of a statement that was prepared on this connection, with indexes wherever one could serve.
pub async fn plan_of(c: &mut Connection, like: &str) -> String {
    for setting in ["plan_cache_mode = force_generic_plan", "enable_seqscan = off", "enable_bitmapscan = off"]
    {
        sqlx::query(AssertSqlSafe(format!("set {setting}"))).execute(&mut *c).await.unwrap();
    }
    let sql = "select name, cardinality(parameter_types) from pg_prepared_statements where statement like $1";
    let row = sqlx::query(sql).bind(like).fetch_one(&mut *c).await.unwrap();
    let (name, parameters): (String, i32) = (row.get(0), row.get(1));
    let nulls = vec!["null"; usize::try_from(parameters).unwrap()].join(", ");
    let explain = AssertSqlSafe(format!("explain execute {name} ({nulls})"));
    let plan = sqlx::raw_sql(explain).fetch_all(&mut *c).await.unwrap();
    plan.iter().map(|line| line.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn renewals_and_releases_use_indexes() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let (drone, term) = drone.identity();
    let mut c = harness.app.pools.leases.acquire().await.unwrap();
    let seat = jetway_protocol::lease::Seat { term, renewal: 9 };
    let renewal = leases::Renewal { drone, seat, lease: None, load: Default::default() };
    leases::renew(&mut c, &[renewal]).await.unwrap();
    leases::end(&mut c, drone, seat, 1).await.unwrap();
    releases::doomed(&mut c, 10).await.unwrap();
    for (like, never) in [
        ("with beat as%", "Seq Scan on drones"),
        ("%set term = next.term, lease_over_below%", "Seq Scan"),
        ("%cross join lateral%", "Seq Scan on backends"),
    ] {
        let plan = plan_of(&mut c, like).await;
        assert!(!plan.contains(never), "{plan}");
    }
    let plan = plan_of(&mut c, "%cross join lateral%").await;
    assert!(plan.contains("backends_live_term") && plan.contains("backends_live_leased"), "{plan}");
}

/// A plan as the connection itself would make and keep it.
pub async fn kept_plan(c: &mut Connection, like: &str) -> String {
    sqlx::query("set plan_cache_mode = force_generic_plan").execute(&mut *c).await.unwrap();
    let sql = "select name, cardinality(parameter_types) from pg_prepared_statements where statement like $1";
    let row = sqlx::query(sql).bind(like).fetch_one(&mut *c).await.unwrap();
    let (name, parameters): (String, i32) = (row.get(0), row.get(1));
    let nulls = vec!["null"; usize::try_from(parameters).unwrap()].join(", ");
    let explain = AssertSqlSafe(format!("explain execute {name} ({nulls})"));
    let plan = sqlx::raw_sql(explain).fetch_all(&mut *c).await.unwrap();
    plan.iter().map(|line| line.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

/// Plans outlive the days when the tables were small: each row must be found by what is known of it even then.
#[tokio::test]
async fn plans_that_were_made_for_empty_tables_find_each_row_by_its_key() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    let (drone, term) = drone.identity();
    let key = Key { name: "k".into(), namespace: String::new(), tag: String::new() };
    let mut hot = harness.app.pools.hot.acquire().await.unwrap();
    backends::live_by_key(&mut hot, &key).await.unwrap();
    backends::live_by_keys(&mut hot, &[&key, &key]).await.unwrap();
    let entry = StatusEntry { status: Status::Ready, at: UnixMicros(1), end: None };
    let (backend, fencing_token) = ("nobody".parse().unwrap(), FencingToken(1));
    let event = BackendEvent { backend, fencing_token, entry, timeline: Vec::new() };
    let report = Report { drone, term, events: vec![event] };
    let mut c = harness.app.pools.internal.acquire().await.unwrap();
    events::store_all(&mut c, &[Arc::new(report)]).await.unwrap();

    let live = kept_plan(&mut hot, "select b.id, b.fencing_token, b.key_tag%").await;
    let many = kept_plan(&mut hot, "%unnest($1::text[], $2::text[]) with ordinality%").await;
    for plan in [&live, &many] {
        assert!(plan.contains("using backends_live_key on backends"), "{plan}");
    }
    let stored = kept_plan(&mut c, "with latest as materialized%").await;
    let scans =
        stored.lines().filter(|line| line.contains("Index Scan") && line.contains(" on backends")).count();
    assert_eq!(scans, 2, "the row that is locked, and the same to be updated: {stored}");
    let left = kept_plan(&mut c, "select d.term is not distinct%").await;
    for plan in [live, many, stored, left] {
        assert!(!plan.contains("Seq Scan"), "{plan}");
        for (n, line) in plan.lines().enumerate().filter(|(_, line)| line.contains("Index Scan")) {
            assert!(
                plan.lines().nth(n + 1).is_some_and(|next| next.contains("Index Cond")),
                "{line}\n{plan}"
            );
        }
    }
}
