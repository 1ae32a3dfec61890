//! Renewals: long before the end, when the issuer would like it, and what is shown while they fail.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::fleet::{Plan, with_fleet};

const SOON: Duration = Duration::from_secs(25);

#[test]
fn a_certificate_is_renewed_unseen_and_the_old_one_is_shown_while_that_fails() {
    const SECONDS: u64 = 24;
    let plan = Plan::new(&["--acme-certificate", "short.example"]);
    with_fleet(Plan { seconds: SECONDS, ..plan }, async |fleet| {
        let port = fleet.proxies[0].tls_port;
        fleet.issuer.visited(port, "short.example", SOON).await?;
        // Each handshake from here on is a good one, whatever is renewed meanwhile.
        let (begun, mut shown) = (Instant::now(), BTreeSet::new());
        while shown.len() < 2 {
            shown.insert(fleet.issuer.visit(port, "short.example").await?);
            ensure!(begun.elapsed() < Duration::from_secs(SECONDS), "it was never renewed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        ensure!(begun.elapsed() > Duration::from_secs(SECONDS / 4), "it is renewed all the time");
        let one = fleet.certificate("short.example").await?;
        ensure!(one["version"] == 2 && one["state"] == "valid", "{one}");

        // The issuer is away at the next one, but its root is still known.
        let root = fleet.issuer.root().await?;
        fleet.issuer.end().await?;
        let one = fleet.until("short.example", SOON, |one| one["failures"] != 0).await?;
        ensure!(one["state"] == "renewal_failing" && one["version"] == 2, "{one}");
        let old = fleet.issuer.visit_trusting(root, port, "short.example").await?;
        ensure!(shown.contains(&old), "what is shown is neither of them");
        Ok(())
    });
}

#[test]
fn an_issuer_says_when_it_would_like_the_renewal() {
    let plan = Plan::new(&["--acme-certificate", "window.example"]);
    with_fleet(Plan { with_front: true, waits: true, ..plan }, async |fleet| {
        let switches = fleet.front.as_ref().context("a front")?.switches.clone();
        // Of a certificate of 90 days, 60 would be the usual.
        let in_days = |days: u64| time_in(Duration::from_secs(days * 86_400));
        let window = (in_days(10)?, in_days(11)?);
        *switches.window.lock().expect("no panic") = Some(window);
        fleet.start_controllers().await?;
        fleet.until("window.example", SOON, |one| one["state"] == "valid").await?;
        let days = |one: &Value| {
            let at = one["next_order_at"].as_i64().unwrap_or_default();
            (at - jetway_protocol::time::UnixMicros::now().millis()) / 86_400_000
        };
        let one = fleet.until("window.example", SOON, |one| days(one) < 20).await?;
        ensure!((9..=11).contains(&days(&one)), "{one}");
        Ok(())
    });
}

#[test]
fn an_issuer_that_wants_it_now_has_it_soon_and_hears_what_is_replaced() {
    let plan = Plan::new(&["--acme-certificate", "now.example"]);
    with_fleet(Plan { with_front: true, waits: true, seconds: 40, ..plan }, async |fleet| {
        let switches = fleet.front.as_ref().context("a front")?.switches.clone();
        let window = ("2026-01-01T00:00:00Z".to_owned(), "2026-01-02T00:00:00Z".to_owned());
        *switches.window.lock().expect("no panic") = Some(window);
        fleet.start_controllers().await?;
        fleet.until("now.example", SOON, |one| one["version"] == 1).await?;
        let begun = Instant::now();
        fleet.until("now.example", SOON, |one| one["version"] == 2).await?;
        // A half of its time is the usual; the window says now, and a quarter is the least.
        let took = begun.elapsed();
        ensure!((8..=19).contains(&took.as_secs()), "it was renewed after {took:?}");
        let replaced = switches.replaced.lock().expect("no panic").clone();
        ensure!(replaced.len() == 1 && replaced[0].split('.').count() == 2, "{replaced:?}");
        Ok(())
    });
}

/// As RFC 3339 has it, to the second.
fn time_in(wait: Duration) -> anyhow::Result<String> {
    let output = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d", &format!("{} seconds", wait.as_secs())])
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
