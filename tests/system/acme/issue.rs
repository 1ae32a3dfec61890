//! The first certificate: each challenge, an issuer that refuses, is busy, away or wants to know whose customer it deals with.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::fleet::{Plan, with_fleet};

const SOON: Duration = Duration::from_secs(25);

#[test]
fn one_order_of_two_controllers_serves_both_proxies() {
    let plan = Plan::new(&["--acme-certificate", "app.example", "--acme-contact", "ops@example.com"]);
    with_fleet(Plan { controllers: 2, proxies: 2, ..plan }, async |fleet| {
        let first = fleet.issuer.visited(fleet.proxies[0].tls_port, "app.example", SOON).await?;
        let second = fleet.issuer.visited(fleet.proxies[1].tls_port, "app.example", SOON).await?;
        ensure!(first == second, "the proxies show different certificates");
        ensure!(fleet.issuer.orders()? == 1, "{} orders", fleet.issuer.orders()?);
        let one = fleet.certificate("app.example").await?;
        ensure!(one["state"] == "valid" && one["version"] == 1 && one["failures"] == 0, "{one}");

        let mut rows = fleet.rows().await?;
        let (sealed, chain): (Vec<u8>, String) =
            sqlx::query_as("select sealed_key, chain from certificates").fetch_one(&mut rows).await?;
        ensure!(chain.matches("BEGIN CERTIFICATE").count() == 2, "{chain}");
        ensure!(!sealed.windows(11).any(|part| part == b"PRIVATE KEY"), "the key can be read in Postgres");
        let account: Vec<u8> =
            sqlx::query_scalar("select credentials from acme_accounts").fetch_one(&mut rows).await?;
        ensure!(
            !account.windows(5).any(|part| part == b"pkcs8"),
            "the account's key can be read in Postgres"
        );

        let said = fleet.says(&["certificates"])?;
        ensure!(said.contains("app.example") && said.contains("valid") && said.contains("89d"), "{said}");
        let metrics = format!("http://127.0.0.1:{}/metrics", fleet.controllers[0].port);
        let metrics = fleet.http.get(metrics).send().await?.text().await?;
        ensure!(metrics.contains("jetway_certificates{state=\"failing\"} 0"), "{metrics}");

        // Everything else by HTTP is still sent to HTTPS; what no issuer asked for is not there.
        let plain = format!("http://127.0.0.1:{}", fleet.proxies[0].port);
        let moved = fleet.http.get(format!("{plain}/token/")).send().await?;
        ensure!(moved.status() == 308, "{moved:?}");
        for (token, status) in [("nobodys", 404), ("a.b", 404)] {
            let url = format!("{plain}/.well-known/acme-challenge/{token}");
            let answer = fleet.http.get(url).send().await?;
            ensure!(answer.status() == status, "{token}: {answer:?}");
        }
        Ok(())
    });
}

#[test]
fn control_is_shown_in_a_handshake() {
    let plan =
        Plan::new(&["--acme-certificate", "tls.example+www.tls.example", "--acme-challenge", "tls-alpn-01"]);
    // Nobody answers by HTTP where the issuer would look.
    with_fleet(Plan { looks_elsewhere: true, ..plan }, async |fleet| {
        for host in ["tls.example", "www.tls.example"] {
            fleet.issuer.visited(fleet.proxies[0].tls_port, host, SOON).await?;
        }
        ensure!(fleet.issuer.orders()? == 1);
        Ok(())
    });
}

#[test]
fn a_wildcard_and_its_parent_are_shown_by_the_dns() {
    let plan = Plan::new(&["--acme-certificate", "wild.example+*.wild.example"]);
    with_fleet(Plan { by_dns: true, ..plan }, async |fleet| {
        for host in ["wild.example", "any.wild.example", "other.wild.example"] {
            fleet.issuer.visited(fleet.proxies[0].tls_port, host, SOON).await?;
        }
        let deeper = fleet.issuer.visit(fleet.proxies[0].tls_port, "a.b.wild.example").await;
        ensure!(deeper.is_err(), "a wildcard is for one label");
        Ok(())
    });
}

#[test]
fn whoever_names_no_host_is_shown_the_clusters() {
    with_fleet(Plan::new(&["--acme-certificate", "cluster.example"]), async |fleet| {
        let port = fleet.proxies[0].tls_port;
        fleet.issuer.visited(port, "cluster.example", SOON).await?;
        let address = format!("127.0.0.1:{port}");
        let output = tokio::process::Command::new("openssl")
            .args(["s_client", "-noservername", "-connect", &address])
            .stdin(std::process::Stdio::null())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("BEGIN CERTIFICATE") && said.contains("Pebble"), "{output:?}");
        Ok(())
    });
}

#[test]
fn a_failed_validation_says_why_and_does_not_spin() {
    let plan = Plan::new(&["--acme-certificate", "nowhere.example"]);
    with_fleet(Plan { looks_elsewhere: true, ..plan }, async |fleet| {
        let one = fleet.until("nowhere.example", SOON, |one| one["failures"] == 1).await?;
        let problem = one["problem"].as_str().context("a problem")?;
        ensure!(one["state"] == "failing" && problem.contains("nowhere.example: "), "{one}");
        ensure!(problem.contains("refuse"), "it says what the issuer saw: {problem}");
        let wait = one["next_order_at"].as_i64().context("a time")? - now_ms();
        ensure!((200_000..=340_000).contains(&wait), "the next order is in {wait} ms");
        tokio::time::sleep(Duration::from_secs(7)).await;
        let later = fleet.certificate("nowhere.example").await?;
        ensure!(later["failures"] == 1 && fleet.issuer.orders()? == 1, "it spins: {later}");
        let refused = fleet.issuer.visit(fleet.proxies[0].tls_port, "nowhere.example").await;
        ensure!(refused.is_err(), "there is nothing to show");
        let said = fleet.says(&["certificates"])?;
        ensure!(said.contains("failing") && said.contains(problem), "{said}");

        // An operator has mended what was wrong: here, nothing was, and it fails again at once.
        let said = fleet.says(&["certificates", "retry", "nowhere.example"])?;
        ensure!(said.contains("ordered now"), "{said}");
        fleet.until("nowhere.example", SOON, |one| one["failures"] == 1).await?;
        let unknown = fleet.says(&["certificates", "retry", "nobodys.example"]).map(drop).unwrap_err();
        ensure!(unknown.to_string().contains("no certificate has the id"), "{unknown}");
        Ok(())
    });
}

#[test]
fn an_issuer_that_has_had_enough_is_left_alone_for_as_long_as_it_says() {
    let plan = Plan::new(&["--acme-certificate", "busy.example"]);
    with_fleet(Plan { with_front: true, waits: true, ..plan }, async |fleet| {
        let switches = fleet.front.as_ref().context("a front")?.switches.clone();
        switches.limited.store(1, Ordering::Relaxed);
        fleet.start_controllers().await?;
        let one = fleet.until("busy.example", SOON, |one| one["failures"] == 1).await?;
        ensure!(one["problem"].as_str().is_some_and(|said| said.contains("too many certificates")), "{one}");
        let wait = one["next_order_at"].as_i64().context("a time")? - now_ms();
        ensure!(
            (6_400_000..=8_000_000).contains(&wait),
            "it said 7200 s, and the next order is in {wait} ms"
        );
        ensure!(fleet.issuer.orders()? == 0);
        fleet.says(&["certificates", "retry", "busy.example"])?;
        fleet.until("busy.example", SOON, |one| one["state"] == "valid").await?;
        Ok(())
    });
}

#[test]
fn an_issuer_that_is_away_is_tried_again_soon_and_one_that_forgot_us_gets_a_new_account() {
    with_fleet(Plan::new(&["--acme-certificate", "one.example,two.example"]), async |fleet| {
        for id in ["one.example", "two.example"] {
            fleet.until(id, SOON, |one| one["state"] == "valid").await?;
        }
        fleet.issuer.end().await?;
        fleet.says(&["certificates", "retry", "one.example"])?;
        let one = fleet.until("one.example", SOON, |one| one["failures"] == 1).await?;
        ensure!(one["state"] == "renewal_failing", "{one}");
        ensure!(one["problem"].as_str().is_some_and(|said| said.contains("cannot be reached")), "{one}");
        let wait = one["next_order_at"].as_i64().context("a time")? - now_ms();
        ensure!((15_000..=35_000).contains(&wait), "the next order is in {wait} ms");

        // It comes back without its memory: pebble keeps nothing.
        fleet.issuer.begin().await?;
        fleet.says(&["certificates", "retry", "one.example"])?;
        let one = fleet.until("one.example", SOON, |one| one["version"] == 2).await?;
        ensure!(one["state"] == "valid", "{one}");
        ensure!(fleet.log("controller-0.log").contains("does not know our account"));
        Ok(())
    });
}

#[test]
fn an_account_is_bound_to_the_customers_where_the_issuer_wants_that() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let plan = Plan { binding: Some(("kid-1", KEY)), ..Plan::new(&["--acme-certificate", "bound.example"]) };
    with_fleet(plan, async |fleet| {
        let one = fleet.until("bound.example", SOON, |one| one["failures"] == 1).await?;
        let problem = one["problem"].as_str().context("a problem")?;
        ensure!(problem.contains("externalAccountBinding"), "{problem}");
        fleet.flags_are(&[
            "--acme-certificate",
            "bound.example",
            "--acme-eab-key-id",
            "kid-1",
            "--acme-eab-key",
            KEY,
        ]);
        fleet.stop_controller(0, nix::sys::signal::Signal::SIGTERM).await?;
        fleet.start_controller(0)?;
        fleet.until_ready().await?;
        fleet.says(&["certificates", "retry", "bound.example"])?;
        fleet.until("bound.example", SOON, |one| one["state"] == "valid").await?;
        Ok(())
    });
}

#[test]
fn an_order_that_nobody_ended_is_taken_up_by_another_controller() {
    let plan = Plan::new(&["--acme-certificate", "left.example"]);
    with_fleet(plan, async |fleet| {
        fleet.until("left.example", SOON, |one| one["version"] == 1).await?;
        // As a controller leaves it that is killed in the middle of an order.
        let mut rows = fleet.rows().await?;
        sqlx::query("update turns set next_at = now() + interval '3 s' where task = 'certificates'")
            .execute(&mut rows)
            .await?;
        fleet.says(&["certificates", "retry", "left.example"])?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(fleet.certificate("left.example").await?["version"] == 1, "two orders at a time");
        fleet.until("left.example", SOON, |one| one["version"] == 2).await?;
        Ok(())
    });
}

#[test]
fn what_makes_no_sense_is_said_at_the_start() {
    for (flags, sign) in [
        (&["--acme-certificate", "localhost"][..], "host names like example.com"),
        (&["--acme-certificate", "a.example", "--acme-directory", "http://acme.example"], "--acme-directory"),
        (&["--acme-certificate", "a.example", "--acme-eab-key-id", "k"], "--acme-eab-key-file"),
        (&["--acme-ask-url", "http://a/", "--acme-challenge", "dns-01"], "on demand"),
        (&["--acme-certificate", "a.example", "--acme-challenge", "http"], "http-01, tls-alpn-01 or dns-01"),
    ] {
        let program = crate::harness::processes::executable("jetway").expect("the executable");
        let output = std::process::Command::new(program)
            .args([
                "controller",
                "--db",
                "postgres://a@127.0.0.1:1/a",
                "--cluster",
                "c.example",
                "--acme-agree-terms",
            ])
            .args(["--listen", "127.0.0.1:0", "--secret", &"s".repeat(32)])
            .args(flags)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(sign), "{flags:?}: {said}");
    }
}

fn now_ms() -> i64 {
    jetway_protocol::time::UnixMicros::now().millis()
}
