//! Many new keys at one moment, each connect over a connection of its own, until each has its first byte: as many as the pool has
//! slots, and three times as many, beside Plane.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use super::{Bench, NOT_LEARNED, with_jetway, with_plane};
use crate::measure::{Samples, median_of};
use crate::peer::Site;
use crate::peer::jetway::Jetway;
use crate::report::{Bar, Row};

/// Making and removing hundreds of containers takes most of its time.
const ROUNDS: usize = 1;
const LIMIT: Duration = Duration::from_secs(600);
const POOL: &str = "burst";

#[derive(Default)]
struct Bursts {
    rounds: Vec<Samples>,
    errors: usize,
    error: String,
}

impl Bursts {
    async fn burst(&mut self, site: &Site, name: &str, size: usize) -> anyhow::Result<()> {
        let round = self.rounds.len();
        let bodies: Vec<_> =
            (0..size).map(|n| site.connect_body(&format!("{name}-{round}-{n}"), &json!({}))).collect();
        let mut samples = Samples::default();
        for outcome in join_all(bodies.iter().map(|body| site.first_byte_of_many(body))).await {
            match outcome {
                Ok(time) => samples.push_time(time),
                Err(error) => {
                    self.errors += 1;
                    self.error = format!("{error:#}");
                }
            }
        }
        self.rounds.push(samples);
        site.end_all().await
    }

    /// Without its pool it is measured all the same, and says so.
    fn has(&mut self, pool: anyhow::Result<()>) {
        if let Err(error) = pool {
            self.errors += 1;
            self.error = format!("{error:#}");
        }
    }

    fn percentile(&self, share: f64) -> Option<f64> {
        median_of(self.rounds.iter().map(|samples| samples.percentile(share)))
    }

    fn fault(&self) -> Option<String> {
        (self.errors > 0).then(|| format!("{} errors: {}", self.errors, self.error))
    }
}

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    with_plane(bench, async |plane| {
        with_jetway(bench, &[NOT_LEARNED], LIMIT, async |jetway| {
            let (mut fits, mut beyond, mut theirs) =
                (Bursts::default(), Bursts::default(), Bursts::default());
            // So that the connections between the parts are there.
            jetway.site.first_byte(&jetway.site.connect_body("before", &json!({}))).await?;
            for _ in 0..bench.settings.rounds(ROUNDS) {
                fits.has(pool(jetway, 50).await);
                fits.burst(&jetway.site, "fits", 50).await?;
                beyond.has(pool(jetway, 32).await);
                beyond.burst(&jetway.site, "beyond", 100).await?;
                if let Some(plane) = plane {
                    theirs.burst(&plane.site, "burst", 100).await?;
                }
            }
            Ok(rows(&fits, &beyond, &theirs))
        })
        .await
    })
    .await
}

async fn pool(jetway: &Jetway, slots: u32) -> anyhow::Result<()> {
    jetway.pool(POOL, "parked", slots, &json!({})).await
}

fn rows(fits: &Bursts, beyond: &Bursts, theirs: &Bursts) -> Vec<Row> {
    let against = |share| {
        let errors = theirs.errors;
        let name = if errors > 0 { format!("Plane ({errors} errors)") } else { "Plane".to_owned() };
        (name, theirs.percentile(share))
    };
    let own = |name: &str, share, bar| {
        let measure = format!("50 new keys on a pool of 50: {name}");
        Row::own(&measure, fits.percentile(share), "ms", bar).with_fault(fits.fault())
    };
    let ratio = |name: &str, share, bar| {
        let (peer, number) = against(share);
        let measure = format!("100 new keys on a pool of 32: {name}");
        Row::ratio(&measure, beyond.percentile(share), (&peer, number), "ms", bar).with_fault(beyond.fault())
    };
    vec![
        own("p50", 0.5, Bar::None),
        own("p99", 0.99, Bar::AtMost(250.0)),
        own("worst", 1.0, Bar::None),
        ratio("p50", 0.5, Bar::None),
        ratio("p99", 0.99, Bar::None),
        ratio("worst", 1.0, Bar::AtMost(0.8)),
    ]
}
