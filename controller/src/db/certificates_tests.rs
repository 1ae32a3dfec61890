//! Certificates in Postgres: which one is shown, which is due, and what an issuer's wish changes.

use std::time::Duration;

use jetway_protocol::certificates::HostName;
use jetway_protocol::time::UnixMicros;
use sqlx::AssertSqlSafe;

use super::Connection;
use super::certificates::{
    Issued, counts, covering, declare, due, failed, issued, retry, suggested, to_ask_about, wish,
};
use crate::testing::Harness;

const WHOLE_DAY: Duration = Duration::from_secs(86_400);
const DAY: i64 = 86_400 * 1_000_000;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

async fn issue(c: &mut Connection, id: &str, days: i64) -> bool {
    let now = UnixMicros::now();
    let (not_after, next_at) = (UnixMicros(now.0 + days * DAY), UnixMicros(now.0 + days * DAY / 2));
    let row = Issued { chain: id, sealed_key: b"sealed", not_before: now, not_after, next_at };
    issued(c, id, &row).await.unwrap()
}

/// Of the one that there is, from now.
async fn next_in_days(harness: &Harness) -> i64 {
    let sql = "select (extract(epoch from next_at - now()) / 86400)::bigint::text from certificates";
    harness.value(sql).await.parse().unwrap()
}

#[tokio::test]
async fn a_host_has_what_lasts_longest_and_what_is_there_before_what_is_ordered() {
    let harness = Harness::new().await;
    let mut c = harness.app.pools.requests.acquire().await.unwrap();
    let both = ["a.example".to_owned(), "*.a.example".to_owned()];
    declare(&mut c, "both", &both).await.unwrap();
    assert!(wish(&mut c, &host("x.a.example"), 10).await.unwrap());
    assert!(covering(&mut c, &host("b.example")).await.unwrap().is_none());
    assert!(covering(&mut c, &host("x.y.a.example")).await.unwrap().is_none(), "a wildcard is one label");
    assert!(issue(&mut c, "both", 90).await);
    for name in ["a.example", "x.a.example", "z.a.example"] {
        let found = covering(&mut c, &host(name)).await.unwrap().unwrap();
        assert_eq!((found.id.as_str(), found.version, found.is_wanting), ("both", 1, false), "{name}");
    }
    assert!(issue(&mut c, "x.a.example", 100).await);
    let found = covering(&mut c, &host("x.a.example")).await.unwrap().unwrap();
    assert_eq!((found.id.as_str(), found.seconds.round()), ("x.a.example", 100.0 * 86_400.0));

    for setting in ["set plan_cache_mode = force_generic_plan", "set enable_seqscan = off", "discard plans"] {
        sqlx::query(setting).execute(&mut *c).await.unwrap();
    }
    let name: String =
        sqlx::query_scalar("select name from pg_prepared_statements where statement like 'with found%'")
            .fetch_one(&mut *c)
            .await
            .unwrap();
    let explain = AssertSqlSafe(format!("explain execute {name} (null, null)"));
    let plan: Vec<String> = sqlx::query_scalar(explain).persistent(false).fetch_all(&mut *c).await.unwrap();
    assert!(plan.join("\n").contains("certificates_names"), "{plan:?}");
}

#[tokio::test]
async fn what_is_due_is_what_somebody_wants() {
    let harness = Harness::new().await;
    let mut c = harness.app.pools.requests.acquire().await.unwrap();
    let (configured, since) = (["named.example".to_owned()], WHOLE_DAY);
    let none: [String; 0] = [];
    declare(&mut c, "named.example", &configured).await.unwrap();
    assert!(wish(&mut c, &host("one.example"), 1).await.unwrap());
    assert!(!wish(&mut c, &host("one.example"), 9).await.unwrap(), "it is on order");
    assert!(!wish(&mut c, &host("two.example"), 1).await.unwrap(), "one waits already");
    assert!(due(&mut c, &none, false, since).await.unwrap().is_none(), "nobody's here");
    assert_eq!(due(&mut c, &configured, false, since).await.unwrap().unwrap().id, "named.example");
    assert_eq!(due(&mut c, &none, true, since).await.unwrap().unwrap().id, "one.example");
    harness.execute("update certificates set asked_at = now() - interval '2 days'").await;
    assert!(due(&mut c, &none, true, since).await.unwrap().is_none(), "nobody has come for it");

    failed(&mut c, "named.example", "no", Some(WHOLE_DAY)).await.unwrap();
    assert!(due(&mut c, &configured, false, since).await.unwrap().is_none());
    assert!(retry(&mut c, "named.example").await.unwrap() && !retry(&mut c, "nobodys").await.unwrap());
    assert!(issue(&mut c, "named.example", 90).await);
    assert!(due(&mut c, &configured, false, since).await.unwrap().is_none());
    assert!(!issue(&mut c, "named.example", -1).await, "its time is over");
    assert_eq!(covering(&mut c, &host("named.example")).await.unwrap().unwrap().version, 1);

    failed(&mut c, "one.example", "the hook says no", None).await.unwrap();
    let found = covering(&mut c, &host("one.example")).await.unwrap().unwrap();
    assert!(found.is_given_up && found.is_wanting && found.failures == 1);
    assert!(wish(&mut c, &host("one.example"), 1).await.unwrap(), "somebody comes again");
    assert!(wish(&mut c, &host("named.example"), 9).await.unwrap(), "an operator names it no more");
    declare(&mut c, "named.example", &configured).await.unwrap();
    let counts = counts(&mut c).await.unwrap();
    assert_eq!((counts.valid, counts.failing, counts.without), (1, 0, 1));
}

#[tokio::test]
async fn an_issuers_wish_counts_once_and_not_at_once() {
    let harness = Harness::new().await;
    let mut c = harness.app.pools.requests.acquire().await.unwrap();
    let names = ["a.example".to_owned()];
    declare(&mut c, "a.example", &names).await.unwrap();
    assert!(to_ask_about(&mut c, &names, WHOLE_DAY).await.unwrap().is_none(), "there is none yet");
    assert!(issue(&mut c, "a.example", 80).await);
    assert_eq!(next_in_days(&harness).await, 40);
    assert_eq!(to_ask_about(&mut c, &names, WHOLE_DAY).await.unwrap().unwrap().0, "a.example");
    assert!(to_ask_about(&mut c, &names, WHOLE_DAY).await.unwrap().is_none(), "somebody asks");
    let in_days = |days: i64| UnixMicros(UnixMicros::now().0 + days * DAY);
    let window = (in_days(8), in_days(12));
    suggested(&mut c, "a.example", window, in_days(10), WHOLE_DAY).await.unwrap();
    assert_eq!(next_in_days(&harness).await, 10);
    suggested(&mut c, "a.example", window, in_days(11), WHOLE_DAY).await.unwrap();
    assert_eq!(next_in_days(&harness).await, 10, "the same window draws no second lot");
    suggested(&mut c, "a.example", (in_days(-9), in_days(-8)), in_days(-8), WHOLE_DAY).await.unwrap();
    assert_eq!(next_in_days(&harness).await, 0);
    assert!(due(&mut c, &names, false, WHOLE_DAY).await.unwrap().is_none(), "within the first hour");
}
