//! Last close → stop signal, on the application's own clock: with the idle time at 0, beside Plane's with the least that works
//! there for one short visit.

use std::time::Duration;

use anyhow::Context;
use bollard::Docker;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Bench, NOT_LEARNED, lost_peer, with_jetway, with_plane};
use crate::measure::Samples;
use crate::peer::jetway::Jetway;
use crate::peer::plane::{Plane, container};
use crate::report::{Bar, Row};

const ROUNDS: usize = 5;
const LIMIT: Duration = Duration::from_secs(180);
const SIGNAL_MAX: Duration = Duration::from_secs(40);
const MARK: &str = "since_last_close_us=";

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    with_plane(bench, async |mut plane| {
        with_jetway(bench, &[NOT_LEARNED], LIMIT, async |jetway| {
            let (mut ours, mut theirs) = (Samples::default(), Samples::default());
            for round in 0..bench.settings.rounds(ROUNDS) {
                ours.push(of_jetway(jetway, round).await?);
                if let Some(measured) = plane {
                    match of_plane(&bench.docker, measured, round).await {
                        Ok(time) => theirs.push(time),
                        Err(error) => plane = lost_peer(measured, &error),
                    }
                }
            }
            let (ours, theirs) = (ours.median(), ("Plane, idle 1 s", theirs.median()));
            Ok(vec![
                Row::own("last close to stop signal, idle 0", ours, "ms", Bar::AtMost(5.0)),
                Row::ratio("last close to stop signal", ours, theirs, "ms", Bar::None),
            ])
        })
        .await
    })
    .await
}

/// It says when the signal came, and stays, so that it can be heard.
fn deaf(idle_seconds: u32) -> Value {
    json!({ "max_idle_seconds": idle_seconds, "executable": { "env": { "DEAF": "1" } } })
}

async fn of_jetway(jetway: &Jetway, round: usize) -> anyhow::Result<f64> {
    let site = &jetway.site;
    let connected = site.connect(&site.connect_body(&format!("close-{round}"), &deaf(0))).await?;
    let visit = site.tunnel(&connected).await?;
    let log = format!("{}/ctrl/backends/{}/logs?follow=true", jetway.stack.api, connected.backend);
    let mut log = jetway.stack.http.get(log).send().await?;
    drop(visit);
    let mut text = String::new();
    while said(&text).is_none() {
        let chunk = timeout(SIGNAL_MAX, log.chunk()).await.context("no stop signal in time")??;
        text.push_str(&String::from_utf8_lossy(&chunk.context("the log ends")?));
    }
    site.end_all().await?;
    said(&text).context("a length")
}

async fn of_plane(docker: &Docker, plane: &Plane, round: usize) -> anyhow::Result<f64> {
    let site = &plane.site;
    let connected = site.connect(&site.connect_body(&format!("close-{round}"), &deaf(1))).await?;
    let visit = site.tunnel(&connected).await?;
    let options = LogsOptionsBuilder::default().follow(true).stdout(true).build();
    let mut log = docker.logs(&container(&connected.backend), Some(options));
    drop(visit);
    let mut text = String::new();
    while said(&text).is_none() {
        let chunk = timeout(SIGNAL_MAX, log.next()).await.context("no stop signal in time")?;
        text.push_str(&chunk.context("the log ends")??.to_string());
    }
    site.end_all().await?;
    said(&text).context("a length")
}

/// Milliseconds, once the whole line is there.
fn said(log: &str) -> Option<f64> {
    let (_, rest) = log.split_once(MARK)?;
    let (number, _) = rest.split_once('\n')?;
    Some(number.trim().parse::<f64>().ok()? / 1e3)
}
