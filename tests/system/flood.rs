//! A session that connects to its init's socket in a loop, as any application may: the drone and
//! the sessions beside it do not notice. Measured against the same loop on a path that does not
//! exist, which costs the machine as much.

use std::fs::{read_dir, read_to_string};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use jetway_protocol::init::SOCKET_PATH;
use jetway_protocol::warm::SlotTier;
use jetway_testkit::eventually::SOON;
use serde_json::{Value, json};

use crate::harness::drone::Drone;
use crate::harness::{Options, Role, Stack, with_stack};

/// Sessions that start and stop beside each kind of loop.
const NEIGHBOURS: usize = 30;
const SLOTS: u32 = 4;
/// A loop never takes more of the machine than this.
const HALF_A_PROCESSOR: u32 = 50;
/// What the drone may spend on the loop, in a second.
const TENTH_OF_A_PROCESSOR: Duration = Duration::from_millis(100);
/// Beside the factor of 1.2: what a shared machine takes at random from its slowest start of
/// thirty.
const NOISE: Duration = Duration::from_millis(60);
/// Whatever else the machine does can make one of two loops look worse; a flood that harms does so each time.
const ROUNDS_MAX: u32 = 3;

#[derive(Debug)]
struct Measured {
    /// From the request to ready, and from the stop to the end: the slowest of each.
    slowest: [Duration; 2],
    median: [Duration; 2],
    descriptors: usize,
    /// Of the drone, in a second.
    processor: Duration,
}

/// User and system time of a process.
fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().context("a status")?.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

async fn neighbours(stack: &Stack, drone: &Drone<'_>, name: &str) -> anyhow::Result<Measured> {
    let pid = stack.pid(Role::Drone);
    let (began, spent) = (Instant::now(), processor_time(pid)?);
    let (mut took, mut descriptors) = ([const { Vec::new() }; 2], 0);
    for number in 0..NEIGHBOURS {
        drone.has_ready(SLOTS.into()).await?;
        let mut request = stack.request(&format!("{name}-{number}"), &json!({}), &json!({}));
        request["wait"] = json!("ready");
        let asked = Instant::now();
        let answer = stack.connect(&request).await?;
        took[0].push(asked.elapsed());
        ensure!(answer["status"] == "ready", "{answer}");
        descriptors = descriptors.max(read_dir(format!("/proc/{pid}/fd"))?.count());
        let backend = answer["backend_id"].as_str().context("id")?;
        let asked = Instant::now();
        stack.post(&format!("/ctrl/b/{backend}/hard-terminate"), &Value::Null).await?;
        stack.until_status(backend, "terminated", SOON).await?;
        took[1].push(asked.elapsed());
    }
    let spent = processor_time(pid)? - spent;
    took.iter_mut().for_each(|took| took.sort());
    let [slowest, median] = [NEIGHBOURS - 1, NEIGHBOURS / 2].map(|at| [took[0][at], took[1][at]]);
    let processor = spent.div_f64(began.elapsed().as_secs_f64());
    Ok(Measured { slowest, median, descriptors, processor })
}

/// Neighbours beside a session that dials the path in a loop.
async fn beside(stack: &Stack, drone: &Drone<'_>, path: &str, round: u32) -> anyhow::Result<Measured> {
    let limits = json!({ "cpu_period_percent": HALF_A_PROCESSOR });
    let limited = json!({ "max_idle_seconds": null, "executable": { "resource_limits": limits } });
    let mut request = stack.request(&format!("{path}-{round}"), &json!({ "FLOOD": path }), &limited);
    request["wait"] = json!("ready");
    let flooding = stack.connect(&request).await?;
    let backend = flooding["backend_id"].as_str().context("id")?;
    let name = path.rsplit('/').next().context("name")?.replace('.', "-");
    let measured = neighbours(stack, drone, &format!("{name}-{round}")).await?;
    let url = flooding["url"].as_str().context("url")?;
    let dials = stack.http.get(format!("{url}flooded")).send().await?.text().await?;
    println!("figure: {path}: {dials} dials; {measured:?}");
    ensure!(dials.parse::<u64>()? > 1000, "{dials} dials are no flood");
    stack.post(&format!("/ctrl/b/{backend}/hard-terminate"), &Value::Null).await?;
    stack.until_status(backend, "terminated", SOON).await?;
    Ok(measured)
}

fn is_noticed(before: &Measured, flood: &Measured) -> bool {
    let pairs = before.slowest.iter().zip(&flood.slowest).chain(before.median.iter().zip(&flood.median));
    let mut pairs = pairs.filter(|(before, flood)| **flood > before.mul_f64(1.2) + NOISE);
    pairs.next().is_some()
}

#[test]
fn a_session_that_floods_its_socket_harms_no_neighbour() {
    with_stack(Options::default(), async |stack| {
        let drone = Drone::of(stack).await?;
        stack.pool("parked", SlotTier::Parked, SLOTS, &json!({})).await?;
        drone.has_ready(SLOTS.into()).await?;
        let mut rounds = Vec::new();
        for round in 1..=ROUNDS_MAX {
            let before = beside(stack, &drone, "/.jetway/run/no.sock", round).await?;
            let flood = beside(stack, &drone, SOCKET_PATH, round).await?;
            ensure!(flood.descriptors <= before.descriptors + 100, "{before:?} {flood:?}");
            ensure!(flood.processor <= before.processor + TENTH_OF_A_PROCESSOR, "{before:?} {flood:?}");
            let noticed = is_noticed(&before, &flood);
            rounds.push((before, flood));
            if !noticed {
                return stack.no_pools().await;
            }
        }
        anyhow::bail!("neighbours notice the flood in each round: {rounds:?}")
    });
}
