//! What a proxy adds to the bytes of one application: WebSocket echoes and small requests. Each in turn,
//! in front of the same container; every second round begins with the last one.
//!
//! The client takes part of the same processors, so throughputs are nearer to each other than the
//! proxies are. Processor times are of the proxy alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Bench, NOT_LEARNED, with_jetway, with_plane};
use crate::harness::drone::Drone;
use crate::http::{self, Connection, request, upgrade};
use crate::load;
use crate::measure::{Samples, median_of};
use crate::peer::web::{Running, Web};
use crate::peer::{Site, local};
use crate::process::processor_seconds;
use crate::report::{Bar, Row};

const ROUNDS: usize = 5;
const LIMIT: Duration = Duration::from_secs(400);
const LENGTH: Duration = Duration::from_secs(2);

/// Who stands before the application.
struct Front {
    name: &'static str,
    address: SocketAddr,
    host: String,
    path: String,
    pid: u32,
    seen: Vec<Vec<f64>>,
}

/// What is measured of each, in the order of [`Front::seen`].
const MEASURES: usize = 6;

impl Front {
    fn of_url(name: &'static str, url: &str, pid: u32) -> anyhow::Result<Self> {
        let (host, path) = http::split(url)?;
        let (address, host, path) = (local(host)?, host.to_owned(), path.to_owned());
        Ok(Self { name, address, host, path, pid, seen: vec![Vec::new(); MEASURES] })
    }

    fn of_web(web: &Running) -> Self {
        let (address, host, path) = (web.address, web.address.to_string(), "/".to_owned());
        Self { name: web.name, address, host, path, pid: web.pid(), seen: vec![Vec::new(); MEASURES] }
    }

    async fn tunnel(&self) -> anyhow::Result<Connection> {
        let mut connection = Connection::open(self.address).await?;
        connection.tunnel(&upgrade(&self.host, &self.path)).await?;
        Ok(connection)
    }

    /// Messages a second, and how long each took.
    async fn echoes(&self, connections: usize, bytes: usize) -> anyhow::Result<(f64, Samples)> {
        let message = Arc::new(frame(bytes));
        let mut workers = JoinSet::new();
        let mut tunnels = Vec::new();
        for _ in 0..connections {
            tunnels.push(self.tunnel().await?);
        }
        let begin = Instant::now();
        for mut tunnel in tunnels {
            let message = message.clone();
            workers.spawn(async move {
                let mut times = Samples::default();
                while begin.elapsed() < LENGTH {
                    let since = Instant::now();
                    tunnel.echo(&message).await?;
                    times.push_time(since.elapsed());
                }
                anyhow::Ok(times)
            });
        }
        let mut all = Samples::default();
        while let Some(worker) = workers.join_next().await {
            all.extend(worker.context("a worker panicked")??);
        }
        Ok((all.len() as f64 / begin.elapsed().as_secs_f64(), all))
    }

    async fn requests(&self) -> anyhow::Result<f64> {
        let bytes = request("GET", &self.host, &self.path, "");
        let outcome =
            load::closed(self.address, 64, LENGTH, &(Arc::new(move |_| bytes.clone()) as _)).await?;
        anyhow::ensure!(outcome.errors == 0, "{} errors: {}", outcome.errors, outcome.error);
        Ok(outcome.per_second)
    }

    async fn turn(&mut self) -> anyhow::Result<()> {
        let busy = processor_seconds(self.pid)?;
        let (small, echoes) = self.echoes(64, 64).await?;
        let echo = (processor_seconds(self.pid)? - busy) * 1e6 / echoes.len() as f64;
        let (large, _) = self.echoes(64, 16 * 1024).await?;
        let (_, alone) = self.echoes(1, 64).await?;
        let busy = processor_seconds(self.pid)?;
        let requests = self.requests().await?;
        let busy = processor_seconds(self.pid)? - busy;
        let each = busy * 1e6 / (requests * LENGTH.as_secs_f64());
        let alone = alone.median().context("no echo")?;
        for (of, number) in self.seen.iter_mut().zip([small, echo, large, alone, requests, each]) {
            of.push(number);
        }
        Ok(())
    }

    /// What a peer fails at is missing from the table.
    fn goes_on(&mut self, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        match outcome {
            Err(error) if self.name != "Jetway" => {
                eprintln!("{}: {error:#}", self.name);
                Ok(())
            }
            outcome => outcome.context(self.name),
        }
    }

    fn median(&self, measure: usize) -> Option<f64> {
        median_of(self.seen[measure].iter().copied().map(Some))
    }
}

/// A masked binary frame (RFC 6455 §5.2) with so many bytes in it: what a browser sends. It comes back as it is.
fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x82];
    match u16::try_from(bytes) {
        Ok(length @ ..126) => frame.push(0x80 | length.to_be_bytes()[1]),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((bytes as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.resize(frame.len() + bytes, b'x');
    frame
}

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    with_plane(bench, async |plane| {
        with_jetway(bench, &[NOT_LEARNED], LIMIT, async |jetway| {
            let ours = session(&jetway.site, "edge").await?;
            let backend = address(jetway, &ours.backend).await?;
            let (haproxy, nginx) = (Web::HaProxy.start(backend).await?, Web::Nginx.start(backend).await?);
            let mut fronts = vec![Front::of_url("Jetway", &ours.url, jetway.proxy_pid())?];
            fronts.extend([&haproxy, &nginx].into_iter().flatten().map(Front::of_web));
            if let Some(plane) = plane {
                let theirs = session(&plane.site, "edge").await?;
                fronts.push(Front::of_url("Plane", &theirs.url, plane.proxy_pid())?);
            }
            let count = fronts.len();
            for round in 0..bench.settings.rounds(ROUNDS) {
                for n in 0..count {
                    let front = &mut fronts[if round % 2 == 0 { n } else { count - 1 - n }];
                    let turn = front.turn().await;
                    front.goes_on(turn)?;
                }
            }
            for web in [haproxy, nginx].into_iter().flatten() {
                web.end().await?;
            }
            Ok(rows(&fronts))
        })
        .await
    })
    .await
}

pub(super) async fn session(site: &Site, key: &str) -> anyhow::Result<crate::peer::Connected> {
    let connected = site.connect(&site.connect_body(key, &json!({}))).await?;
    // It is there once it has answered.
    site.tunnel(&connected).await?;
    Ok(connected)
}

pub(super) async fn address(
    jetway: &crate::peer::jetway::Jetway,
    backend: &str,
) -> anyhow::Result<SocketAddr> {
    let drone = Drone::of(&jetway.stack).await?;
    let view = drone.call("GET", &format!("/b/{backend}"), Value::Null).await?;
    view["address"].as_str().context("address")?.parse().context("an address")
}

fn rows(fronts: &[Front]) -> Vec<Row> {
    let measures = [
        ("WebSocket echo, 64 connections, 64 B", "/s", Bar::AtLeast(0.9)),
        ("WebSocket echo, 64 B: processor time of one", "µs", Bar::None),
        ("WebSocket echo, 64 connections, 16 KiB", "/s", Bar::AtLeast(0.9)),
        ("WebSocket echo, 1 connection, 64 B: p50", "ms", Bar::AtMost(1.1)),
        ("small requests, 64 connections kept alive", "/s", Bar::AtLeast(0.8)),
        ("small requests: processor time of one", "µs", Bar::None),
    ];
    let (ours, others) = fronts.split_first().expect("Jetway is the first");
    let mut rows = Vec::new();
    for (n, (measure, unit, bar)) in measures.into_iter().enumerate() {
        for peer in ["HAProxy", "nginx", "Plane"] {
            let theirs = others.iter().find(|front| front.name == peer).and_then(|front| front.median(n));
            let bar = if peer == "HAProxy" { bar } else { Bar::None };
            rows.push(Row::ratio(measure, ours.median(n), (peer, theirs), unit, bar));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::frame;

    #[test]
    fn a_frame_says_its_length() {
        assert_eq!(frame(2), [0x82, 0x82, 0, 0, 0, 0, b'x', b'x']);
        assert_eq!(frame(126)[..4], [0x82, 0xfe, 0, 126]);
        assert_eq!(frame(70_000)[..10], [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }
}
