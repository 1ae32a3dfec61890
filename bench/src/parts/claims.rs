//! New keys a second: one controller, simulated drones that take what they are given at once. What a claim costs is then the
//! controller's, Postgres' and the load generator's, all on this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::{Bench, NOT_LEARNED, with_jetway};
use crate::drones::{self, Fleet};
use crate::load::{self, Requests};
use crate::measure::{Samples, median_of};
use crate::peer::Site;
use crate::report::{Bar, Row};

const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(120);
const LENGTH: Duration = Duration::from_secs(4);
const CONNECTIONS: u64 = 64;
const DRONES: usize = 10;

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    with_jetway(bench, &[NOT_LEARNED], LIMIT, async |jetway| {
        let fleet = Fleet::start(jetway, DRONES).await?;
        let requests = new_keys(&jetway.site);
        let (mut rates, mut latency, mut fault) = (Vec::new(), Samples::default(), None);
        load::closed(jetway.site.api, CONNECTIONS, LENGTH / 4, &requests).await?;
        for _ in 0..bench.settings.rounds(ROUNDS) {
            let outcome = load::closed(jetway.site.api, CONNECTIONS, LENGTH, &requests).await?;
            rates.push(Some(outcome.per_second));
            if outcome.errors > 0 {
                fault = Some(format!("{} errors: {}", outcome.errors, outcome.error));
            }
            latency.extend(outcome.latency);
        }
        let fault = fault.or(fleet.fault());
        fleet.leave().await?;
        let measure = format!("new keys, {DRONES} simulated drones, {CONNECTIONS} connections");
        Ok(vec![
            Row::own(&measure, median_of(rates), "/s", Bar::AtLeast(1000.0)).with_fault(fault),
            Row::own(&format!("{measure}: p50"), latency.median(), "ms", Bar::None),
            Row::own(&format!("{measure}: p99"), latency.percentile(0.99), "ms", Bar::None),
        ])
    })
    .await
}

/// Connects for keys that nobody had before, placed on simulated drones.
pub fn new_keys(site: &Site) -> Requests {
    let body = site.connect_body("KEY", &json!({ "pool": drones::POOL, "executable": { "image": "app" } }));
    let (host, template) = (site.api.to_string(), body.to_string());
    let next = AtomicU64::new(0);
    Arc::new(move |_| {
        let key = format!("new-{}", next.fetch_add(1, Ordering::Relaxed));
        crate::http::request("POST", &host, "/ctrl/connect", &template.replace("KEY", &key))
    })
}
