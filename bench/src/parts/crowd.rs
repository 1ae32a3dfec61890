//! Twenty thousand WebSockets that are quiet, over several sessions and proxies, while a thousand new ones a second come and go.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use super::{Bench, NOT_LEARNED, with_jetway};
use crate::harness::eventually;
use crate::harness::processes::Process;
use crate::hold::{Hold, Holder};
use crate::http::{Connection, split, upgrade};
use crate::measure::Samples;
use crate::peer::jetway::Jetway;
use crate::report::{Bar, Row};

const LIMIT: Duration = Duration::from_secs(300);
const LENGTH: Duration = Duration::from_secs(10);
const PER_SECOND: u32 = 1000;
/// Each with a proxy of its own: a tunnel is two files there, of 20,000, and one in the session.
const SESSIONS: usize = 4;
const HELD_BY_EACH: usize = 5000;
const PORTS_FREE: Duration = Duration::from_secs(90);
const WAITING_MAX: u32 = 1000;

struct Crowd {
    /// Each with the addresses of its own session and proxy.
    holds: Vec<Hold>,
    proxies: Vec<Process>,
}

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    ports_are_free().await?;
    with_jetway(bench, &[NOT_LEARNED], LIMIT, async |jetway| {
        let mut crowd = Crowd::gather(jetway).await?;
        let mut holders = Vec::new();
        for hold in &crowd.holds {
            holders.push(Holder::start(hold).await?);
        }
        let (times, errors, reason) = come_and_go(&crowd.holds).await?;
        let mut lost = 0;
        for holder in holders {
            lost += holder.lost().await?;
        }
        for proxy in &mut crowd.proxies {
            proxy.stop(Signal::SIGTERM).await?;
        }
        let held = SESSIONS * HELD_BY_EACH;
        let what = format!("{held} idle WebSockets, {PER_SECOND} new ones a second");
        Ok(vec![
            Row::own(
                &format!("{what}: errors of {}", times.len() + errors),
                Some(errors as f64),
                "",
                Bar::AtMost(0.0),
            )
            .with_fault(reason),
            Row::own(&format!("{what}: idle ones lost"), Some(lost as f64), "", Bar::AtMost(0.0)),
            Row::own(&format!("{what}: open, echo, p50"), times.median(), "ms", Bar::None),
            Row::own(&format!("{what}: open, echo, p99"), times.percentile(0.99), "ms", Bar::None),
        ])
    })
    .await
}

/// What was closed before, to the same addresses, keeps its ports for a minute (TIME-WAIT, RFC 9293 §3.6.1).
pub(super) async fn ports_are_free() -> anyhow::Result<()> {
    eventually("ports of earlier connections are free", PORTS_FREE, async || {
        let counts = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let after_tw = counts.split_whitespace().skip_while(|word| *word != "tw").nth(1);
        let waiting = after_tw.and_then(|count| count.parse::<u32>().ok()).unwrap_or(0);
        if waiting < WAITING_MAX { Ok(()) } else { Err(format!("{waiting} in TIME-WAIT")) }
    })
    .await
}

impl Crowd {
    async fn gather(jetway: &Jetway) -> anyhow::Result<Self> {
        let mut crowd = Self { holds: Vec::new(), proxies: Vec::new() };
        let mut ports = vec![jetway.stack.proxy_port];
        for n in 1..SESSIONS {
            let (proxy, port) = jetway.one_more_proxy(&format!("crowd-{n}")).await?;
            crowd.proxies.push(proxy);
            ports.push(port);
        }
        for (n, proxy) in ports.into_iter().enumerate() {
            let connected =
                jetway.site.connect(&jetway.site.connect_body(&format!("crowd-{n}"), &json!({}))).await?;
            jetway.site.tunnel(&connected).await?;
            let (host, path) = split(&connected.url)?;
            let source = Ipv4Addr::new(127, 0, 1, u8::try_from(n)? + 1);
            crowd.holds.push(Hold {
                proxy: ([127, 0, 0, 1], proxy).into(),
                source,
                tunnels: HELD_BY_EACH,
                host: host.to_owned(),
                path: path.to_owned(),
            });
        }
        Ok(crowd)
    }
}

/// How long each took to open and to echo from when it was due, how many did not, and why one of them.
async fn come_and_go(holds: &[Hold]) -> anyhow::Result<(Samples, usize, Option<String>)> {
    let (mut visits, begin) = (JoinSet::new(), tokio::time::Instant::now());
    let period = Duration::from_secs(1) / PER_SECOND;
    let all = u32::try_from(LENGTH.as_secs())? * PER_SECOND;
    for n in 0..all {
        let due = begin + period * n;
        tokio::time::sleep_until(due).await;
        let hold = holds[n as usize % holds.len()].clone();
        visits.spawn(async move {
            // From an address that holds nothing.
            let mut connection = Connection::open_from(Ipv4Addr::new(127, 0, 2, 1), hold.proxy).await?;
            connection.tunnel(&upgrade(&hold.host, &hold.path)).await?;
            connection.echo(b"a visit").await?;
            anyhow::Ok(due.elapsed())
        });
    }
    let (mut times, mut errors, mut reason) = (Samples::default(), 0, None);
    while let Some(visit) = visits.join_next().await {
        match visit.context("a visit panicked")? {
            Ok(time) => times.push_time(time),
            Err(error) => {
                errors += 1;
                reason = Some(format!("{error:#}"));
            }
        }
    }
    Ok((times, errors, reason))
}
