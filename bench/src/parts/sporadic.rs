//! What comes seldom: starts and connects with a pause before each, as most keys are used. Between them
//! nothing is asked of anybody, so that caches, connections and frequencies are as cold as they get
//! in that time.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Bench, NOT_LEARNED, lost_peer, with_jetway, with_plane};
use crate::measure::Samples;
use crate::peer::Site;
use crate::peer::docker::Bare;
use crate::peer::jetway::Jetway;
use crate::peer::plane::Plane;
use crate::report::{Bar, Row};

const ROUNDS: usize = 10;
/// Of those after a silence, which take longer.
const SILENT_ROUNDS_MAX: usize = 4;
const APART: Duration = Duration::from_millis(1500);
const SILENCE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(1200);
const SLOTS: u32 = 3;
const LIVE: &str = "sporadic-live";

struct Tier {
    name: &'static str,
    spawn: Value,
    taken: Samples,
    misses: usize,
}

/// With one pause before each.
struct Seldom {
    pause: Duration,
    what: &'static str,
    tiers: [Tier; 2],
    live: [Samples; 2],
    docker: Samples,
    plane: Samples,
}

impl Seldom {
    fn new(pause: Duration, what: &'static str) -> Self {
        let tier = |name, spawn| Tier { name, spawn, taken: Samples::default(), misses: 0 };
        let hot = json!({ "executable": { "hot": { "claim_path": "/claim" } } });
        Self {
            pause,
            what,
            tiers: [tier("parked", json!({})), tier("hot", hot)],
            live: Default::default(),
            docker: Samples::default(),
            plane: Samples::default(),
        }
    }

    /// Each kind of start by itself, so that none is warmed by another.
    async fn measure(
        &mut self,
        rounds: usize,
        (jetway, bare): (&Jetway, &Bare),
        plane: &mut Option<&Plane>,
    ) -> anyhow::Result<()> {
        for tier in &mut self.tiers {
            for round in 0..rounds {
                let key = format!("{}-{}-{round}", tier.name, self.pause.as_millis());
                let body = jetway.site.connect_body(&key, &tier.spawn);
                sleep(self.pause).await;
                match jetway.first_byte(&body, tier.name).await {
                    Ok(time) => tier.taken.push_time(time),
                    Err(error) => {
                        tier.misses += 1;
                        eprintln!("{}: {error:#}", tier.name);
                    }
                }
                jetway.site.keep_newest(1).await?;
            }
        }
        for _ in 0..rounds {
            sleep(self.pause).await;
            self.docker.push_time(bare.first_byte().await.context("bare Docker")?);
        }
        connects(&jetway.site, self.pause, rounds, &mut self.live[0]).await?;
        if let Some(measured) = *plane
            && let Err(error) = self.of_plane(measured, rounds).await
        {
            *plane = lost_peer(measured, &error);
        }
        Ok(())
    }

    async fn of_plane(&mut self, plane: &Plane, rounds: usize) -> anyhow::Result<()> {
        for round in 0..rounds {
            let key = format!("sporadic-{}-{round}", self.pause.as_millis());
            let body = plane.site.connect_body(&key, &json!({}));
            sleep(self.pause).await;
            self.plane.push_time(plane.site.first_byte(&body).await?.0);
            plane.site.keep_newest(1).await?;
        }
        connects(&plane.site, self.pause, rounds, &mut self.live[1]).await
    }

    fn rows(&self) -> Vec<Row> {
        let [docker, plane] = [&self.docker, &self.plane].map(Samples::median);
        let mut rows = Vec::new();
        for tier in &self.tiers {
            let measure = format!("{}, {}: connect to first byte", tier.name, self.what);
            let fault = (tier.misses > 0).then(|| format!("{} starts were not served so", tier.misses));
            let median = tier.taken.median();
            for peer in [("Plane", plane), ("Docker", docker)] {
                rows.push(Row::ratio(&measure, median, peer, "ms", Bar::None).with_fault(fault.clone()));
            }
            rows.push(Row::own(&measure, median, "ms", Bar::AtMost(12.0)).with_fault(fault.clone()));
            let worst = format!("{measure}, worst of {}", tier.taken.len());
            rows.push(Row::own(&worst, tier.taken.worst(), "ms", Bar::None).with_fault(fault));
        }
        let [ours, theirs] = &self.live;
        let measure = format!("live key, {}", self.what);
        rows.push(Row::ratio(&measure, ours.median(), ("Plane", theirs.median()), "ms", Bar::None));
        rows
    }
}

/// To one key whose session runs.
async fn connects(site: &Site, pause: Duration, rounds: usize, taken: &mut Samples) -> anyhow::Result<()> {
    let body = site.connect_body(LIVE, &json!({}));
    let visit = site.tunnel(&site.connect(&body).await?).await?;
    for _ in 0..rounds {
        sleep(pause).await;
        let begin = std::time::Instant::now();
        site.connect(&body).await?;
        taken.push_time(begin.elapsed());
    }
    drop(visit);
    Ok(())
}

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    with_plane(bench, async |mut plane| {
        with_jetway(bench, &[NOT_LEARNED], LIMIT, async |jetway| {
            let mut all = [Seldom::new(APART, "1.5 s apart"), Seldom::new(SILENCE, "after 30 s of silence")];
            for tier in &all[0].tiers {
                jetway.pool(tier.name, tier.name, SLOTS, &tier.spawn).await?;
            }
            let rounds = bench.settings.rounds(ROUNDS);
            let bare = Bare::start(&bench.docker, &bench.image).await?;
            for (seldom, rounds) in all.iter_mut().zip([rounds, rounds.min(SILENT_ROUNDS_MAX)]) {
                let measured = seldom.measure(rounds, (jetway, &bare), &mut plane).await;
                if let Err(error) = measured {
                    bare.end().await?;
                    return Err(error);
                }
            }
            bare.end().await?;
            Ok(all.iter().flat_map(Seldom::rows).collect())
        })
        .await
    })
    .await
}
