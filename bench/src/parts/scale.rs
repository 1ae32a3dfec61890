//! The same connects with 10 simulated drones and 1,000 sessions that run, and with 1,000 drones and 100,000: open loop, at a rate that
//! leaves room. The small installation is measured before and after the large one.

use std::sync::Arc;
use std::time::Duration;

use super::claims::new_keys;
use super::{Bench, NOT_LEARNED, with_jetway};
use crate::drones::Fleet;
use crate::http::request;
use crate::load::{self, Requests};
use crate::measure::{Samples, median_of};
use crate::peer::Site;
use crate::peer::jetway::Jetway;
use crate::report::{Bar, Row};

const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(300);
const LENGTH: Duration = Duration::from_secs(4);
const CONNECTIONS: u64 = 16;
const RATE: f64 = 200.0;
const SMALL: usize = 10;
const LARGE: usize = 1000;
const SESSIONS_EACH: i64 = 100;

/// Of the live keys, and of new ones.
#[derive(Default)]
struct Seen {
    live: Vec<Samples>,
    new: Vec<Samples>,
    fault: Option<String>,
}

impl Seen {
    async fn measure(&mut self, jetway: &Jetway, drones: usize, rounds: usize) -> anyhow::Result<()> {
        let fleet = Fleet::start(jetway, drones).await?;
        fleet.fill(SESSIONS_EACH).await?;
        let (live, new) = (live_keys(&jetway.site, drones), new_keys(&jetway.site));
        // At the same rate: what was overloaded before would be measured afterwards.
        for requests in [&live, &new] {
            load::open(jetway.site.api, CONNECTIONS, RATE, LENGTH / 2, requests).await?;
        }
        for _ in 0..rounds {
            for (samples, requests) in [(&mut self.live, &live), (&mut self.new, &new)] {
                let outcome = load::open(jetway.site.api, CONNECTIONS, RATE, LENGTH, requests).await?;
                if outcome.errors > 0 {
                    self.fault = Some(format!("{} errors: {}", outcome.errors, outcome.error));
                }
                samples.push(outcome.latency);
            }
        }
        self.fault = self.fault.take().or(fleet.fault());
        fleet.leave().await
    }
}

/// Keys of the sessions that run, one after another all over the installation.
fn live_keys(site: &Site, drones: usize) -> Requests {
    let (host, sessions) = (site.api.to_string(), drones as u64 * SESSIONS_EACH.unsigned_abs());
    Arc::new(move |n| {
        // A prime of strides: neighbours are on different drones.
        let key = n * 7919 % sessions + 1;
        let body = format!(r#"{{"key":{{"name":"fill-{key}","namespace":"fill"}}}}"#);
        request("POST", &host, "/ctrl/connect", &body)
    })
}

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    with_jetway(bench, &[NOT_LEARNED], LIMIT, async |jetway| {
        let (mut small, mut large) = (Seen::default(), Seen::default());
        let rounds = bench.settings.rounds(ROUNDS);
        small.measure(jetway, SMALL, rounds).await?;
        large.measure(jetway, LARGE, rounds).await?;
        small.measure(jetway, SMALL, rounds).await?;
        Ok(rows(&small, &large))
    })
    .await
}

fn rows(small: &Seen, large: &Seen) -> Vec<Row> {
    let fault = large.fault.clone().or(small.fault.clone());
    let of = |rounds: &[Samples], share| median_of(rounds.iter().map(|samples| samples.percentile(share)));
    let row = |what: &str, name: &str, (large, small): (&[Samples], &[Samples]), share, bar| {
        let measure = format!("{what}, {LARGE} drones, 100,000 sessions: {name}");
        let peer = ("10 drones, 1,000:", of(small, share));
        Row::ratio(&measure, of(large, share), peer, "ms", bar).with_fault(fault.clone())
    };
    let mut rows = Vec::new();
    for (what, seen) in [("live key", (&large.live, &small.live)), ("new key", (&large.new, &small.new))] {
        let seen = (seen.0.as_slice(), seen.1.as_slice());
        rows.push(row(what, "p50", seen, 0.5, Bar::AtMost(1.3)));
        rows.push(row(what, "p99", seen, 0.99, Bar::None));
    }
    rows
}
