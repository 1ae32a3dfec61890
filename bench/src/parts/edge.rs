//! What a proxy adds to the bytes of one application: WebSocket echoes, small requests, and the memory of connections that are quiet.
//! Everybody in turn, in front of the same kind of container.

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
use crate::report::{Bar, Row};

const ROUNDS: usize = 5;
const LIMIT: Duration = Duration::from_secs(400);
const LENGTH: Duration = Duration::from_secs(2);
const IDLE: usize = 5000;
/// USER_HZ of x86 and ARM.
const TICKS_A_SECOND: f64 = 100.0;
const OPENING_MAX: usize = 16;

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

    /// Bytes of memory that a quiet tunnel holds.
    async fn idle(&self) -> anyhow::Result<f64> {
        let before = resident(self.pid)?;
        let mut tunnels = Vec::new();
        while tunnels.len() < IDLE {
            let opening = (0..OPENING_MAX.min(IDLE - tunnels.len())).map(|_| self.tunnel());
            tunnels.extend(futures_util::future::try_join_all(opening).await?);
        }
        let after = resident(self.pid)?;
        Ok((after - before) / IDLE as f64)
    }

    async fn turn(&mut self) -> anyhow::Result<()> {
        let (small, _) = self.echoes(64, 64).await?;
        let (large, _) = self.echoes(64, 16 * 1024).await?;
        let (_, alone) = self.echoes(1, 64).await?;
        let busy = processor_seconds(self.pid)?;
        let requests = self.requests().await?;
        let busy = processor_seconds(self.pid)? - busy;
        let each = busy * 1e6 / (requests * LENGTH.as_secs_f64());
        let alone = alone.median().context("no echo")?;
        for (of, number) in self.seen.iter_mut().zip([small, large, alone, requests, each]) {
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

/// Of a process and its children, in the kernel and outside.
fn processor_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc_pid_stat(5): utime and stime, the 14th and 15th field; the second one may have spaces in it.
    let (_, fields) = stat.rsplit_once(')').context("a stat line")?;
    let ticks: f64 = fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<f64>).sum();
    let mut seconds = ticks / TICKS_A_SECOND;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    for child in children.split_whitespace() {
        seconds += processor_seconds(child.parse()?)?;
    }
    Ok(seconds)
}

/// Of a process and its children.
fn resident(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut bytes = kib * 1024.0;
    for child in children.split_whitespace() {
        bytes += resident(child.parse()?)?;
    }
    Ok(bytes)
}

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    with_plane(bench, async |plane| {
        with_jetway(bench, &[NOT_LEARNED], LIMIT, async |jetway| {
            let ours = session(&jetway.site).await?;
            let backend = address(jetway, &ours.backend).await?;
            let (haproxy, nginx) = (Web::HaProxy.start(backend).await?, Web::Nginx.start(backend).await?);
            let mut fronts = vec![Front::of_url("Jetway", &ours.url, jetway.proxy_pid())?];
            fronts.extend([&haproxy, &nginx].into_iter().flatten().map(Front::of_web));
            if let Some(plane) = plane {
                let theirs = session(&plane.site).await?;
                fronts.push(Front::of_url("Plane", &theirs.url, plane.proxy_pid())?);
            }
            for _ in 0..bench.settings.rounds(ROUNDS) {
                for front in &mut fronts {
                    let turn = front.turn().await;
                    front.goes_on(turn)?;
                }
            }
            // Once: what was opened before has left its marks in the heap.
            for front in &mut fronts {
                let idle = front.idle().await.map(|bytes| front.seen[MEASURES - 1].push(bytes / 1e3));
                front.goes_on(idle)?;
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

async fn session(site: &Site) -> anyhow::Result<crate::peer::Connected> {
    let connected = site.connect(&site.connect_body("edge", &json!({}))).await?;
    // It is there once it has answered.
    site.tunnel(&connected).await?;
    Ok(connected)
}

async fn address(jetway: &crate::peer::jetway::Jetway, backend: &str) -> anyhow::Result<SocketAddr> {
    let drone = Drone::of(&jetway.stack).await?;
    let view = drone.call("GET", &format!("/b/{backend}"), Value::Null).await?;
    view["address"].as_str().context("address")?.parse().context("an address")
}

fn rows(fronts: &[Front]) -> Vec<Row> {
    let measures = [
        ("WebSocket echo, 64 connections, 64 B", "/s", Bar::AtLeast(0.9)),
        ("WebSocket echo, 64 connections, 16 KiB", "/s", Bar::AtLeast(0.9)),
        ("WebSocket echo, 1 connection, 64 B: p50", "ms", Bar::AtMost(1.1)),
        ("small requests, 64 connections kept alive", "/s", Bar::AtLeast(0.8)),
        ("small requests: processor time of one", "µs", Bar::None),
        ("memory of an idle WebSocket, 5,000 open", "kB", Bar::AtMost(1.5)),
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
