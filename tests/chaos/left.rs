//! After a run: everything is over by itself, and nothing is left. Asked before anything is taken away by force.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::forgotten::{self, Forgotten, children_of, name};
use crate::harness::eventually;
use crate::network::{processes_in, run};
use crate::parts::Parts;
use crate::places::{CONTROLLERS, DRONES, Host, PROXIES, Part, run_dir};
use crate::pools::SANDBOXES;
use crate::schedule::Fault;
use crate::seen::Done;
use crate::shore::Shore;
use crate::{engine, pools, records, sweep};

/// Until the installation is whole again after the last fault.
const WHOLE: Duration = Duration::from_secs(90);
/// From the last visitor's leave to the last session's end: its idle time, grace, and a deleted row's 30 s.
const IDLE: Duration = Duration::from_secs(90);

/// What stays of a drone that has nothing any more: who it is, where its addresses stood, which
/// sessions it has ended and what they printed last, and the executable
/// that it mounts.
const MEMORY: [&str; 7] =
    ["lock", "drone.json", "address-cursor", "tombstones.ndjson", "pulled-images.json", "init", "output"];

async fn ask(shore: &Shore, path: &str) -> anyhow::Result<Value> {
    let url = format!("http://{}{path}", Part::Controller(1).address());
    let answer = shore.http.get(url).timeout(Duration::from_secs(10)).send().await?;
    Ok(answer.error_for_status()?.json().await?)
}

/// Both controllers answer, and every drone can be placed on.
pub async fn whole(shore: &Shore) -> anyhow::Result<()> {
    eventually("the installation is whole", WHOLE, async || {
        for number in 1..=CONTROLLERS {
            let url = format!("http://{}/ctrl/status", Part::Controller(number).address());
            let answer = shore.http.get(url).timeout(Duration::from_secs(5)).send().await;
            if !answer.is_ok_and(|answer| answer.status().is_success()) {
                return Err(format!("controller{number} is not well"));
            }
        }
        for number in 1..=PROXIES {
            let url = format!("http://{}/ready", Part::Proxy(number).address());
            let answer = shore.http.get(url).timeout(Duration::from_secs(5)).send().await;
            if !answer.is_ok_and(|answer| answer.status().is_success()) {
                return Err(format!("proxy{number} is not ready"));
            }
        }
        let drones = ask(shore, "/ctrl/drones").await.map_err(|error| format!("{error:#}"))?;
        let states: Vec<_> =
            drones["drones"].as_array().into_iter().flatten().map(|drone| drone["state"].clone()).collect();
        let ready = states.iter().filter(|state| **state == "ready").count();
        if ready == usize::from(DRONES) { Ok(()) } else { Err(format!("drones: {states:?}")) }
    })
    .await
}

/// Each key through each proxy; who cannot get in.
pub async fn visit_all(shore: &Shore) -> Vec<String> {
    let mut failed = Vec::new();
    for number in 0..shore.keys {
        let key = format!("key-{number}");
        let controller = Part::Controller(1 + u8::try_from(number % u64::from(CONTROLLERS)).unwrap_or(0));
        for proxy in 1..=PROXIES {
            // A session may be on its way out, or its drone still at work on what happened to it.
            let what = format!("{key} through proxy{proxy}");
            let visit = eventually(&what, WHOLE, async || shore.reach(controller, &key, proxy).await).await;
            if let Err(error) = visit {
                failed.push(format!("hung: after all faults, {error:#}"));
            }
        }
    }
    failed
}

/// Sessions end by themselves once nobody comes any more.
pub async fn idle(shore: &Shore) -> Vec<String> {
    let ended = eventually("every session ends", IDLE, async || {
        let rows = records::rows(&shore.http, &Part::Controller(1).address()).await;
        let rows = rows.map_err(|error| vec![format!("{error:#}")])?;
        let live: Vec<_> = rows
            .iter()
            .filter(|(_, row)| row.status != "terminated")
            .map(|(id, row)| format!("row {id} {}", row.status))
            .collect();
        if live.is_empty() { Ok(()) } else { Err(live) }
    });
    ended.await.err().map(|error| format!("left: {error:#}")).into_iter().collect()
}

/// What waits for sessions when there are none: as many containers as each drone is to keep, and no other.
pub async fn kept(shore: &Shore) -> Vec<String> {
    let kept = eventually("what is kept ready is what is wanted", IDLE, async || {
        let say = |error: anyhow::Error| vec![format!("{error:#}")];
        let pools = ask(shore, "/ctrl/pools").await.map_err(say)?;
        let mut wrong = Vec::new();
        for number in 1..=DRONES {
            let wanted = pools::wanted(&pools, number).map_err(say)?;
            let [slots, sandboxes, others] = engine::roles(number).await.map_err(say)?;
            if slots as u64 != wanted || sandboxes != SANDBOXES || others > 0 {
                wrong.push(format!(
                    "d{number} has {slots} slots of {wanted}, {sandboxes} sandboxes of {SANDBOXES}, {others} other containers"
                ));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    });
    kept.await.err().map(|error| format!("left: {error:#}")).into_iter().collect()
}

/// The parts stop in order; then what they made is gone.
pub async fn stopped(parts: &Parts, faults: &[Done]) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for part in Part::all().into_iter().rev() {
        if matches!(part, Part::Engine(_) | Part::Postgres) {
            continue;
        }
        parts.hold(part)?;
        parts.signal(part, Signal::SIGTERM)?;
        match parts.ended(part).await {
            Ok(status) if status.success() => {}
            Ok(status) => left.push(format!("left: {part} stopped with {status}")),
            Err(error) => left.push(format!("left: {error:#}")),
        }
    }
    let mut forgotten = Vec::new();
    for number in 1..=DRONES {
        let found = engine::has(number).await.with_context(|| format!("engine{number}"))?;
        left.extend(found.into_iter().map(|what| format!("left: {what}")));
        left.extend(tables(number)?);
        left.extend(said(files(&run_dir(number)).into_iter()));
        left.extend(entries(&run_dir(number).join("s")));
        let memory = MEMORY.map(|name| Part::Drone(number).directory().join(name));
        let is_memory = |path: &PathBuf| memory.iter().any(|known| path.starts_with(known));
        left.extend(said(
            files(&Part::Drone(number).directory()).into_iter().filter(|path| !is_memory(path)),
        ));
        let fell = |done: &Done| done.fault == Fault::Kill(Part::Engine(number));
        let engine_fell = faults.iter().any(fell);
        let here = if engine_fell { forgotten::on(number) } else { Vec::new() };
        left.extend(links(number, &here, engine_fell)?);
        left.extend(processes(number, &here));
        forgotten.extend(here);
    }
    let is_forgotten = |group: &Path| forgotten.iter().any(|container| group.ends_with(&container.id));
    let groups = sweep::cgroups_of_containers();
    let groups = groups.iter().filter(|group| !is_forgotten(group));
    left.extend(groups.map(|group| format!("left: cgroup {}", group.display())));
    forgotten.iter().for_each(|container| println!("{container}"));
    Ok(left)
}

/// On a drone's host nothing but its engine, which is not ours, and what that has forgotten.
fn processes(number: u8, forgotten: &[Forgotten]) -> Vec<String> {
    processes_in(&Host::Drone(number).namespace())
        .into_iter()
        .filter(|pid| forgotten.iter().all(|container| container.shim != *pid))
        .map(|pid| (name(pid), pid))
        .filter(|(what, _)| !["dockerd", "containerd", ""].contains(&what.as_str()))
        .map(|(what, pid)| {
            let below: Vec<_> = children_of(pid).into_iter().map(name).collect();
            format!("left: process {what} on the host of d{number}, with {below:?} below it")
        })
        .collect()
}

/// Links of containers and networks, on a host that had only its own before. An engine makes a pair
/// on the host, and gives one of its ends to a container: one that was killed in between has
/// forgotten both.
fn links(number: u8, forgotten: &[Forgotten], engine_fell: bool) -> anyhow::Result<Vec<String>> {
    let listed = run("ip", &["-n", &Host::Drone(number).namespace(), "-o", "link"])?;
    let is_forgotten = |line: &str| {
        let index = line.split(": ").next().unwrap_or_default();
        forgotten.iter().any(|container| container.links.iter().any(|link| link == index))
    };
    let names: Vec<_> = listed
        .lines()
        .filter(|line| !is_forgotten(line))
        .filter_map(|line| line.split(": ").nth(1))
        .filter(|name| *name != "lo" && !name.starts_with("wan@"))
        .collect();
    let is_whole_pair = |name: &str| {
        let turned = name.split_once('@').map(|(end, other)| format!("{other}@{end}"));
        turned.is_some_and(|turned| name.starts_with("veth") && names.contains(&turned.as_str()))
    };
    let (pairs, others): (Vec<&str>, Vec<&str>) =
        names.iter().partition(|name| engine_fell && is_whole_pair(name));
    pairs
        .iter()
        .for_each(|name| println!("engine{number} was killed over the link {name} and has forgotten it"));
    Ok(others.into_iter().map(|name| format!("left: link {name} on the host of d{number}")).collect())
}

fn said(paths: impl Iterator<Item = PathBuf>) -> Vec<String> {
    paths.map(|path| format!("left: {}", path.display())).collect()
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            all.extend(files(&entry.path()));
        } else {
            all.push(entry.path());
        }
    }
    all
}

fn tables(number: u8) -> anyhow::Result<Vec<String>> {
    let namespace = format!("--net=/run/netns/{}", Host::Drone(number).namespace());
    let tables = run("nsenter", &[&namespace, "nft", "list", "tables"])?;
    let ours = tables.lines().filter(|table| table.contains("jetway"));
    Ok(ours.map(|table| format!("left: firewall of d{number}: {table}")).collect())
}

fn entries(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| format!("left: {}", entry.path().display())).collect())
        .unwrap_or_default()
}

/// Lines of the parts' logs that say that one of them panicked.
pub fn panics() -> Vec<String> {
    let mut panics = Vec::new();
    for part in Part::all() {
        let log = std::fs::read(part.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines = log.lines().filter(|line| line.contains("panicked at"));
        panics.extend(lines.map(|line| format!("broken: {part}: {line}")));
    }
    panics
}
