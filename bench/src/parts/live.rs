//! Connects to keys whose sessions run: how many a second are carried (closed loop), and how long
//! one takes (open loop, everybody at the same rate: half of what Plane carries). To many keys, and
//! to a single one, as when everybody opens the same document.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Bench, NOT_LEARNED, lost_peer, with_jetway, with_plane};
use crate::load::{self, Outcome, Requests};
use crate::measure::median_of;
use crate::peer::Site;
use crate::report::{Bar, Row};

const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(300);
const CONNECTIONS: [u64; 3] = [1, 16, 64];
const LENGTH: Duration = Duration::from_secs(2);
/// Each has a session.
const KEYS: u64 = 32;
const CONNECTIONS_TO_ONE: u64 = 16;

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    with_plane(bench, async |plane| {
        with_jetway(bench, &[NOT_LEARNED], LIMIT, async |jetway| {
            let mut rows = Vec::new();
            for (keys, connections) in [(KEYS, &CONNECTIONS[..]), (1, &[CONNECTIONS_TO_ONE])] {
                let mut sites = vec![Side::start(&jetway.site, keys).await?];
                if let Some(plane) = plane {
                    let started = Side::start(&plane.site, keys).await;
                    sites.extend(started.map_or_else(|error| lost_peer(plane, &error), Some));
                }
                for connections in connections {
                    rows.extend(at(bench, &mut sites, *connections).await?);
                }
            }
            Ok(rows)
        })
        .await
    })
    .await
}

/// One of those who are compared.
struct Side<'a> {
    site: &'a Site,
    keys: u64,
    requests: Requests,
    closed: Vec<Outcome>,
    open: Vec<Outcome>,
}

impl<'a> Side<'a> {
    async fn start(site: &'a Site, keys: u64) -> anyhow::Result<Self> {
        let body = |n: u64| site.connect_body(&format!("live-{n}-of-{keys}"), &json!({}));
        for n in 0..keys {
            site.first_byte(&body(n)).await?;
        }
        let connects: Vec<_> = (0..keys).map(|n| site.connect_bytes(&body(n))).collect();
        let requests: Requests = Arc::new(move |n| connects[(n % keys) as usize].clone());
        load::closed(site.api, 4, LENGTH / 4, &requests).await?;
        Ok(Self { site, keys, requests, closed: Vec::new(), open: Vec::new() })
    }

    fn per_second(&self) -> Option<f64> {
        median_of(self.closed.iter().map(|outcome| Some(outcome.per_second)))
    }

    fn latency(&self, share: f64) -> Option<f64> {
        median_of(self.open.iter().map(|outcome| outcome.latency.percentile(share)))
    }

    fn fault(&self) -> Option<String> {
        let of = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| outcome.errors).sum::<u64>();
        let errors = of(&self.closed) + of(&self.open);
        let one = self.closed.iter().chain(&self.open).find(|outcome| outcome.errors > 0);
        one.map(|one| format!("{errors} errors: {}", one.error))
    }
}

async fn at(bench: &Bench, sides: &mut [Side<'_>], connections: u64) -> anyhow::Result<Vec<Row>> {
    let rounds = bench.settings.rounds(ROUNDS);
    for side in &mut *sides {
        side.closed.clear();
        side.open.clear();
    }
    for _ in 0..rounds {
        for side in &mut *sides {
            side.closed.push(load::closed(side.site.api, connections, LENGTH, &side.requests).await?);
        }
    }
    // Of Plane's, or without it of our own.
    let rate = sides.last().and_then(Side::per_second).unwrap_or(1.0) / 2.0;
    for _ in 0..rounds {
        for side in &mut *sides {
            side.open.push(load::open(side.site.api, connections, rate, LENGTH, &side.requests).await?);
        }
    }
    let (jetway, plane) = (&sides[0], sides.get(1));
    let is_barred = connections == 16;
    let bar = |bar| if is_barred { bar } else { Bar::None };
    let one = if jetway.keys == 1 { "one " } else { "" };
    let what = format!("{one}live key, {connections} connections");
    let row = |measure: &str, of: &dyn Fn(&Side) -> Option<f64>, unit, bar| {
        Row::ratio(measure, of(jetway), ("Plane", plane.and_then(of)), unit, bar).with_fault(jetway.fault())
    };
    let at_rate = format!("{what}, {rate:.0}/s");
    Ok(vec![
        row(&what, &|side| side.per_second(), "/s", bar(Bar::AtLeast(3.0))),
        row(&format!("{at_rate}: p50"), &|side| side.latency(0.5), "ms", bar(Bar::AtMost(0.333))),
        row(&format!("{at_rate}: p99"), &|side| side.latency(0.99), "ms", Bar::None),
    ])
}
