//! Connect → first byte through the proxy, for a new key with an environment of its own: from each tier, beside bare Docker, Plane
//! and the application alone. Everybody has one start a round, on a machine that has come to rest; the first round is not counted.
//! Starts follow each other closely here, so caches are hot; `sporadic` has those that do not.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::{Bench, NOT_LEARNED, lost_peer, with_jetway, with_plane};
use crate::measure::Samples;
use crate::peer::alone;
use crate::peer::docker::Bare;
use crate::peer::jetway::Jetway;
use crate::peer::plane::Plane;
use crate::report::{Bar, Row};
use crate::rest::rest;
use crate::settings::Part;

const ROUNDS: usize = 10;
const LIMIT: Duration = Duration::from_secs(240);
const SLOTS: u32 = 2;

struct Tier {
    part: Part,
    name: &'static str,
    /// What differs in its spec, so that no other tier's slots serve it.
    spawn: Value,
    has_pool: bool,
    taken: Samples,
    fault: Option<String>,
    misses: usize,
}

impl Tier {
    fn all(bench: &Bench) -> Vec<Self> {
        let other_limit =
            |mib: i64| json!({ "executable": { "resource_limits": { "memory_limit_bytes": mib << 20 } } });
        [
            (Part::Cold, "cold", other_limit(514), false),
            (Part::Sandbox, "sandbox", other_limit(513), false),
            (Part::Parked, "parked", json!({}), true),
            (Part::Hot, "hot", json!({ "executable": { "hot": { "claim_path": "/claim" } } }), true),
        ]
        .into_iter()
        .filter(|(part, ..)| bench.settings.is_asked(*part))
        .map(|(part, name, spawn, has_pool)| {
            let (taken, fault, misses) = (Samples::default(), None, 0);
            Tier { part, name, spawn, has_pool, taken, fault, misses }
        })
        .collect()
    }

    /// A tier that is not there does not keep the others from being measured.
    async fn prepare(&mut self, jetway: &Jetway) {
        let ready = match self.part {
            Part::Sandbox => jetway.sandboxes_are_ready().await,
            _ if self.has_pool => jetway.pool(self.name, self.name, SLOTS, &self.spawn).await,
            _ => Ok(()),
        };
        self.fault = ready.err().map(|error| format!("{error:#}"));
    }

    async fn turn(&mut self, jetway: &Jetway, round: usize) {
        if self.fault.is_some() {
            return;
        }
        let key = format!("{}-{round}", self.name);
        let body = jetway.site.connect_body(&key, &self.spawn);
        let start = async {
            if self.has_pool {
                jetway.pool_is_full(self.name, SLOTS).await?;
            }
            rest().await?;
            jetway.first_byte(&body, self.name).await
        };
        match start.await {
            Ok(_) if round == 0 => {}
            Ok(time) => self.taken.push_time(time),
            Err(error) => {
                self.misses += 1;
                eprintln!("{}: {error:#}", self.name);
            }
        }
    }

    fn said(&self) -> Option<String> {
        let missed = format!("{} starts were not served so", self.misses);
        self.fault.clone().or((self.misses > 0).then_some(missed))
    }
}

#[derive(Default)]
struct Others {
    alone: Samples,
    docker: Samples,
    plane: Samples,
}

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    with_plane(bench, async |plane| {
        with_jetway(bench, &[NOT_LEARNED], LIMIT, async |warm| {
            let without_sandboxes = [NOT_LEARNED, ("JETWAY_SANDBOXES", "0")];
            with_jetway(bench, &without_sandboxes, LIMIT, async |cold| {
                let bare = Bare::start(&bench.docker, &bench.image).await?;
                let measured = rounds(bench, warm, cold, &bare, plane).await;
                bare.end().await?;
                measured
            })
            .await
        })
        .await
    })
    .await
}

async fn rounds(
    bench: &Bench,
    warm: &Jetway,
    cold: &Jetway,
    bare: &Bare,
    mut plane: Option<&Plane>,
) -> anyhow::Result<Vec<Row>> {
    let (mut tiers, mut others) = (Tier::all(bench), Others::default());
    for tier in &mut tiers {
        tier.prepare(if tier.part == Part::Cold { cold } else { warm }).await;
    }
    for round in 0..=bench.settings.rounds(ROUNDS) {
        let count = |samples: &mut Samples, time| {
            if round > 0 {
                samples.push_time(time)
            }
        };
        rest().await?;
        count(&mut others.alone, alone::exec_to_listen()?);
        rest().await?;
        count(&mut others.docker, bare.first_byte().await.context("bare Docker")?);
        rest().await?;
        if let Some(measured) = plane {
            match of_plane(measured, round).await {
                Ok(time) => count(&mut others.plane, time),
                Err(error) => plane = lost_peer(measured, &error),
            }
        }
        for tier in &mut tiers {
            tier.turn(if tier.part == Part::Cold { cold } else { warm }, round).await;
            warm.site.end_all().await?;
            cold.site.end_all().await?;
        }
    }
    Ok(rows(&tiers, &others))
}

async fn of_plane(plane: &Plane, round: usize) -> anyhow::Result<Duration> {
    let body = plane.site.connect_body(&format!("start-{round}"), &json!({}));
    let (time, _) = plane.site.first_byte(&body).await?;
    plane.site.end_all().await?;
    Ok(time)
}

fn rows(tiers: &[Tier], others: &Others) -> Vec<Row> {
    let [alone, docker, plane] = [&others.alone, &others.docker, &others.plane].map(Samples::median);
    let mut rows = Vec::new();
    for tier in tiers {
        let (name, time) = (tier.name, tier.taken.median());
        let mut compare = |what: &str, peer, bar| {
            let measure = format!("{name}{what}: connect to first byte");
            rows.push(Row::ratio(&measure, time, peer, "ms", bar).with_fault(tier.said()));
        };
        match tier.part {
            Part::Hot => compare("", ("Plane", plane), Bar::AtMost(0.02)),
            Part::Parked => {
                compare(", own environment", ("Plane", plane), Bar::AtMost(0.03));
                let beyond = time.zip(alone).map(|(time, alone)| time - alone);
                let measure = "parked: beyond the application alone, exec to listen";
                rows.push(Row::own(measure, beyond, "ms", Bar::AtMost(6.0)).with_fault(tier.said()));
            }
            Part::Sandbox => {
                compare(", nothing warm", ("Plane", plane), Bar::AtMost(0.5));
                compare(", nothing warm", ("Docker", docker), Bar::AtMost(0.6));
            }
            _ => {
                compare("", ("Plane", plane), Bar::None);
                compare("", ("Docker", docker), Bar::None);
            }
        }
    }
    rows.push(Row::own("the application alone: exec to listen", alone, "ms", Bar::None));
    rows
}
