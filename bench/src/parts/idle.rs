//! The memory of WebSockets that are quiet: in a new process of each proxy for each count, as the slope
//! over the counts, and what the process gives back after they close. A heap that was filled before
//! has room for some thousand without growing, and a single count has the process's own start in it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;

use super::crowd::ports_are_free;
use super::edge::{address, session};
use super::{Bench, NOT_LEARNED, with_jetway};
use crate::harness::processes::Process;
use crate::http::{Connection, split, upgrade};
use crate::measure::median_of;
use crate::peer::jetway::Jetway;
use crate::peer::web::{Running, Web};
use crate::process::resident;
use crate::report::{Bar, Row};

const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(600);
/// In processes that may have 20,000 files, two a tunnel.
const COUNTS: [usize; 3] = [1000, 3000, 5000];
/// Before anything counts: threads are there, and so is the way to the session.
const FIRST: usize = 16;
const OPENING_MAX: usize = 16;
/// For the proxy to do what follows an open or a close.
const SETTLES: Duration = Duration::from_secs(3);

/// A proxy in front of its own session.
struct Front {
    kind: Kind,
    backend: SocketAddr,
    host: String,
    path: String,
    /// kB of one more, and the share of all growth that was given back: one of each a round.
    slopes: Vec<f64>,
    returned: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Jetway,
    Web(Web),
}

/// A new process of it.
enum Fresh {
    Jetway(Process, SocketAddr),
    Web(Running),
}

/// Bytes in one life of a process.
struct Life {
    first: f64,
    open: f64,
    closed: f64,
}

impl Front {
    async fn new(jetway: &Jetway, kind: Kind, key: &str) -> anyhow::Result<Self> {
        let connected = session(&jetway.site, key).await?;
        let backend = address(jetway, &connected.backend).await?;
        let (host, path) = match kind {
            Kind::Jetway => split(&connected.url)?,
            Kind::Web(_) => ("127.0.0.1", "/"),
        };
        let (host, path) = (host.to_owned(), path.to_owned());
        Ok(Self { kind, backend, host, path, slopes: Vec::new(), returned: Vec::new() })
    }

    /// `None`: it is not installed.
    async fn start(&self, jetway: &Jetway) -> anyhow::Result<Option<Fresh>> {
        match self.kind {
            Kind::Jetway => {
                let (process, port) = jetway.one_more_proxy("idle").await?;
                Ok(Some(Fresh::Jetway(process, ([127, 0, 0, 1], port).into())))
            }
            Kind::Web(web) => Ok(web.start(self.backend).await?.map(Fresh::Web)),
        }
    }

    async fn open(&self, proxy: SocketAddr, count: usize) -> anyhow::Result<Vec<Connection>> {
        let one = async || {
            let mut connection = Connection::open(proxy).await?;
            connection.tunnel(&upgrade(&self.host, &self.path)).await?;
            connection.echo(b"here").await?;
            anyhow::Ok(connection)
        };
        let mut tunnels = Vec::new();
        while tunnels.len() < count {
            let opening = (0..OPENING_MAX.min(count - tunnels.len())).map(|_| one());
            tunnels.extend(futures_util::future::try_join_all(opening).await?);
        }
        Ok(tunnels)
    }

    async fn life(&self, fresh: &Fresh, count: usize) -> anyhow::Result<Life> {
        let (pid, proxy) = fresh.reach();
        drop(self.open(proxy, FIRST).await?);
        tokio::time::sleep(SETTLES).await;
        let first = resident(pid)?;
        let tunnels = self.open(proxy, count).await?;
        tokio::time::sleep(SETTLES).await;
        let open = resident(pid)?;
        drop(tunnels);
        tokio::time::sleep(SETTLES).await;
        Ok(Life { first, open, closed: resident(pid)? })
    }

    async fn round(&mut self, jetway: &Jetway) -> anyhow::Result<()> {
        let mut grown = Vec::new();
        for count in COUNTS {
            let Some(fresh) = self.start(jetway).await? else { return Ok(()) };
            let life = self.life(&fresh, count).await;
            fresh.end().await?;
            let Life { first, open, closed } = life?;
            grown.push((count as f64, open - first));
            if count == COUNTS[COUNTS.len() - 1] {
                self.returned.push((open - closed) / (open - first) * 100.0);
            }
        }
        self.slopes.push(slope(&grown) / 1e3);
        Ok(())
    }
}

impl Fresh {
    fn reach(&self) -> (u32, SocketAddr) {
        match self {
            Fresh::Jetway(process, address) => (process.pid(), *address),
            Fresh::Web(web) => (web.pid(), web.address),
        }
    }

    async fn end(self) -> anyhow::Result<()> {
        match self {
            Fresh::Jetway(mut process, _) => process.stop(Signal::SIGTERM).await.map(drop),
            Fresh::Web(web) => web.end().await,
        }
    }
}

/// Of the line through the points that is nearest to them (least squares).
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|p| of(p.0 - x, p.1 - y)).sum::<f64>();
    sum(&|x, y| x * y) / sum(&|x, _| x * x)
}

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    with_jetway(bench, &[NOT_LEARNED], LIMIT, async |jetway| {
        let mut fronts = vec![
            Front::new(jetway, Kind::Jetway, "idle-jetway").await?,
            Front::new(jetway, Kind::Web(Web::HaProxy), "idle-haproxy").await?,
            Front::new(jetway, Kind::Web(Web::Nginx), "idle-nginx").await?,
        ];
        for _ in 0..bench.settings.rounds(ROUNDS) {
            ports_are_free().await?;
            for front in &mut fronts {
                match front.round(jetway).await {
                    Err(error) if front.kind == Kind::Jetway => return Err(error).context("Jetway"),
                    Err(error) => eprintln!("{error:#}"),
                    Ok(()) => {}
                }
            }
        }
        Ok(rows(&fronts))
    })
    .await
}

fn rows(fronts: &[Front]) -> Vec<Row> {
    let median = |of: &[f64]| median_of(of.iter().copied().map(Some));
    let most = COUNTS[COUNTS.len() - 1];
    let (slope, returned) = (
        format!("memory of one more idle WebSocket, new proxy, to {most}"),
        format!("memory of {most} idle WebSockets, given back after their close"),
    );
    let mut rows = Vec::new();
    for (peer, front) in ["HAProxy", "nginx"].into_iter().zip(&fronts[1..]) {
        let bar = if peer == "HAProxy" { Bar::AtMost(1.0) } else { Bar::None };
        let (ours, theirs) = (median(&fronts[0].slopes), median(&front.slopes));
        rows.push(Row::ratio(&slope, ours, (peer, theirs), "kB", bar));
        let (ours, theirs) = (median(&fronts[0].returned), median(&front.returned));
        rows.push(Row::ratio(&returned, ours, (peer, theirs), "%", Bar::None));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::slope;

    #[test]
    fn the_slope_is_what_one_more_costs() {
        assert_eq!(slope(&[(1000.0, 5e6), (3000.0, 9e6), (5000.0, 13e6)]), 2000.0);
        // A process that grows in steps.
        assert_eq!(slope(&[(0.0, 0.0), (1.0, 3.0), (2.0, 2.0)]), 1.0);
    }
}
