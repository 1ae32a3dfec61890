//! The cost of statements about hosts: each finds its rows by an index, however many sessions there
//! are.

use std::time::Duration;

use jetway_protocol::ids::{BackendId, ClusterName, FencingToken, Subdomain};
use jetway_protocol::key::Key;

use super::hosts::{self, Claim, Return};
use super::tests::kept_plan;
use super::{Connection, backends};
use crate::testing::Harness;
use crate::testing::hosted::hosted;

const HOLD: Duration = Duration::from_secs(60);

const BACKEND: &str = "insert into backends (id, cluster, drone_id, drone_term, status)
                       values ('b', 'example.com', gen_random_uuid(), 1, 10)";

/// Every statement of a connect in the host form, and of a proxy's question.
async fn each(c: &mut Connection) {
    let backend: BackendId = "b".parse().unwrap();
    let (cluster, label): (ClusterName, Subdomain) =
        ("example.com".parse().unwrap(), "notes".parse().unwrap());
    let key = Key { name: "k".into(), namespace: "n".into(), tag: String::new() };
    let names = ["notes.example.com".to_owned(), "doc.customer.example".to_owned()];
    let claim = Claim {
        backend: &backend,
        key: Some(&key),
        takes: &names,
        checked: &names,
        label: Some((&cluster, &label)),
        return_url: None,
        hold: HOLD,
    };
    assert_eq!(hosts::take_for_live(c, &claim, FencingToken(1)).await.unwrap(), None);
    hosts::standing(c, &backend, &names).await.unwrap();
    hosts::owners(c, &names, HOLD).await.unwrap();
    let to = Return { host: names[0].clone(), backend, return_url: "https://a.example/".into() };
    assert_eq!(hosts::set_returns(c, std::slice::from_ref(&to)).await.unwrap(), 1);
    assert_eq!(hosts::set_returns(c, std::slice::from_ref(&to)).await.unwrap(), 0, "it is the same");
}

#[tokio::test]
async fn plans_of_empty_tables_find_hosts_by_name() {
    let harness = Harness::new().await;
    harness.execute(BACKEND).await;
    let mut hot = harness.app.pools.hot.acquire().await.unwrap();
    each(&mut hot).await;
    for (like, indexes) in [
        (
            "select taken.host%",
            &["hosts_pkey", "backends_pkey", "backends_live_subdomain", "backends_live_base"][..],
        ),
        ("select case when b.spec%", &["backends_pkey", "hosts_"]),
        ("select asked.place%", &["hosts_pkey", "backends_pkey"]),
        ("with changed as materialized%", &["hosts_pkey"]),
    ] {
        let plan = kept_plan(&mut hot, like).await;
        assert!(!plan.contains("Seq Scan"), "{plan}");
        for index in indexes {
            assert!(plan.contains(index), "{index}: {plan}");
        }
        for (n, line) in plan.lines().enumerate().filter(|(_, line)| line.contains("Index Scan")) {
            let next = plan.lines().nth(n + 1);
            assert!(next.is_some_and(|next| next.contains("Index Cond")), "{line}\n{plan}");
        }
    }
}

/// Without any setting that favours indexes, as the task's connections are.
#[tokio::test]
async fn pruning_finds_hosts_by_their_backends() {
    let harness = Harness::new().await;
    harness
        .execute(
            "insert into hosts (host, key_namespace, key_name, backend, fencing_token, ended_at)
             select 'h' || n, '', 'k' || n, 'b' || n, n,
                    case when n % 50 = 0 then now() - make_interval(hours => 24 + n % 24) end
             from generate_series(1, 50000) n",
        )
        .await;
    harness.execute("analyze hosts").await;
    let mut c = harness.app.pools.housekeeping.acquire().await.unwrap();
    backends::prune(&mut c, 1.0, 500).await.unwrap();
    hosts::prune(&mut c, HOLD, 500).await.unwrap();
    let to =
        Return { host: "h1".into(), backend: "b1".parse().unwrap(), return_url: "https://a.example/".into() };
    hosts::set_returns(&mut c, &[to]).await.unwrap();
    for (like, index) in [
        ("with gone as%", "hosts_backend"),
        ("delete from hosts%", "hosts_ended"),
        ("with changed as materialized%", "hosts_pkey"),
    ] {
        let plan = kept_plan(&mut c, like).await;
        assert!(!plan.contains("Seq Scan on hosts") && plan.contains(index), "{plan}");
    }
}

#[tokio::test]
async fn an_older_backend_takes_nothing_from_a_newer_one() {
    let harness = Harness::new().await;
    harness.drone("one").await;
    harness.execute(BACKEND).await;
    let mut body = hosted("k");
    body["spawn_config"]["subdomain"] = "notes".into();
    assert_eq!(harness.connect(&body).await.status, 200);
    let row = "select concat(backend, ' ', fencing_token) from hosts";
    let before = harness.value(row).await;
    let key = Key { name: "k".into(), namespace: String::new(), tag: String::new() };
    let (old, names) = ("b".parse().unwrap(), ["notes.localhost".to_owned()]);
    let claim = Claim {
        backend: &old,
        key: Some(&key),
        takes: &names,
        checked: &names,
        label: None,
        return_url: Some("https://old.example/"),
        hold: HOLD,
    };
    let mut c = harness.app.pools.requests.acquire().await.unwrap();
    assert_eq!(hosts::take_for_live(&mut c, &claim, FencingToken(1)).await.unwrap(), None);
    assert_eq!(harness.value(row).await, before);
    let newer = FencingToken(1 << 50);
    assert_eq!(hosts::take_for_live(&mut c, &claim, newer).await.unwrap(), None);
    assert_eq!(harness.value(row).await, format!("b {newer}"));
}
