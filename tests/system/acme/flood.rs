//! Strangers flood the DNS of a proxy while an issuer asks it, too.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::PgConnection;

use super::fleet::{Fleet, Plan, with_fleet};

const SOON: Duration = Duration::from_secs(25);
const FLOOD: Duration = Duration::from_secs(5);
/// Questions of one sender between two pauses of a millisecond.
const AT_ONCE: u64 = 10;

/// Senders, until it is dropped.
struct Flood {
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    senders: Vec<std::thread::JoinHandle<()>>,
}

impl Flood {
    fn of(port: u16) -> anyhow::Result<Self> {
        let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut senders = Vec::new();
        for network in 1..=3 {
            let socket = UdpSocket::bind(SocketAddr::from(([127, 0, network, 1], 0)))?;
            socket.connect(("127.0.0.1", port))?;
            let (is_over, sent) = (is_over.clone(), sent.clone());
            senders.push(std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(AT_ONCE, Ordering::Relaxed);
                    for one in 0..AT_ONCE {
                        let _sent_or_refused = socket.send(&question(number + one));
                    }
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            }));
        }
        Ok(Self { is_over, sent, senders })
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for sender in self.senders.drain(..) {
            let _it_ended = sender.join();
        }
    }
}

/// For a text (RFC 1035 §4): of a host on order, of another host, and of a name without the label.
fn question(number: u64) -> Vec<u8> {
    let other = format!("host-{number}");
    let labels: &[&str] = match number % 3 {
        0 => &["_acme-challenge", "wild", "example"],
        1 => &["_acme-challenge", &other, "example"],
        _ => &[&other, "example"],
    };
    let mut bytes = vec![1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 16, 0, 1]);
    bytes
}

/// Transactions of this database so far, as its statistics have them a moment later.
async fn transactions(rows: &mut PgConnection) -> anyhow::Result<i64> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let count = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
    Ok(sqlx::query_scalar(count).fetch_one(rows).await?)
}

/// Transactions, and lines in the proxy's log, of some seconds.
async fn costs(fleet: &Fleet, rows: &mut PgConnection) -> anyhow::Result<(i64, usize)> {
    let lines = || fleet.log("proxy-0.log").lines().count();
    let before = (transactions(rows).await?, lines());
    tokio::time::sleep(FLOOD).await;
    Ok((transactions(rows).await? - before.0, lines() - before.1))
}

#[test]
fn a_dns_flood_costs_nothing_and_issuers_are_answered() {
    let plan = Plan::new(&["--acme-certificate", "wild.example+*.wild.example"]);
    with_fleet(Plan { by_dns: true, waits: true, log: "info", ..plan }, async |fleet| {
        let flood = Flood::of(fleet.proxies[0].dns_port)?;
        fleet.start_controllers().await?;
        fleet.issuer.visited(fleet.proxies[0].tls_port, "any.wild.example", SOON).await?;
        let one = fleet.certificate("wild.example+*.wild.example").await?;
        ensure!(one["failures"] == 0, "the issuer was not answered at once: {one}");

        let mut rows = fleet.rows().await.context("Postgres")?;
        let before = flood.sent.load(Ordering::Relaxed);
        let (transactions, lines) = costs(fleet, &mut rows).await?;
        let sent = flood.sent.load(Ordering::Relaxed) - before;
        drop(flood);
        let (idle, _) = costs(fleet, &mut rows).await?;
        ensure!(sent > 20_000, "{sent} questions are no flood");
        ensure!(lines <= 5, "{lines} lines of log of {sent} questions");
        // Periodic work is jittered.
        ensure!(transactions <= idle + idle / 4 + 10, "{transactions} transactions, {idle} without a flood");
        eprintln!("{sent} questions: {transactions} transactions ({idle} without them), {lines} lines");
        Ok(())
    });
}
