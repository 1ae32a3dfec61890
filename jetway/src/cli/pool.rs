//! `jetway pool`: slots that are kept ready. `ls` shows what is declared and what was learned; `put` declares, `rm` takes back.
//! No session ends by any of them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use jetway_api::pools::{Deleted, LearnedKind, Pool, Pools, Slots};
use jetway_protocol::warm::SlotTier;
use serde_json::{Value, json};

use super::api::{ApiArguments, encode};
use super::connect::environment;
use super::output::{self, word};

#[derive(Debug, Args)]
pub struct PoolArguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List pools, and the kinds that were learned
    Ls(LsArguments),
    /// Show one pool, drone by drone
    Get(NameArguments),
    /// Declare a pool, or change it
    Put(Box<PutArguments>),
    /// Remove a pool; its slots are discarded, its sessions go on
    Rm(NameArguments),
}

#[derive(Debug, Args)]
struct LsArguments {
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Debug, Args)]
struct NameArguments {
    /// The pool's name
    name: String,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Debug, Args)]
struct PutArguments {
    /// The pool's name
    name: String,
    /// The image that slots are made from
    #[arg(long, required_unless_present = "file")]
    image: Option<String>,
    /// A JSON file with the whole body of PUT /ctrl/pools/NAME, or with a spawn_config alone
    #[arg(long, conflicts_with_all = ["image", "env"])]
    file: Option<PathBuf>,
    /// Slots that are always ready or in the making
    #[arg(long)]
    min: Option<u32>,
    /// Slots at most, however much is asked for
    #[arg(long)]
    max: Option<u32>,
    /// parked: the container runs and waits; hot: the application runs already
    #[arg(long)]
    tier: Option<String>,
    /// The share of starts that are to find a slot: 0.99
    #[arg(long)]
    target_hit_rate: Option<f64>,
    /// An environment variable of a connect by the pool's name, as NAME=VALUE; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    #[command(flatten)]
    api: ApiArguments,
}

pub async fn run(arguments: PoolArguments) -> anyhow::Result<ExitCode> {
    match arguments.verb {
        Verb::Ls(arguments) => ls(&arguments.api).await,
        Verb::Get(arguments) => get(&arguments).await,
        Verb::Put(arguments) => put(&arguments).await,
        Verb::Rm(arguments) => rm(&arguments).await,
    }
}

async fn ls(api: &ApiArguments) -> anyhow::Result<ExitCode> {
    let list = api.get::<Pools>("/ctrl/pools").await?;
    if api.json {
        output::json(&list.whole);
        return Ok(ExitCode::SUCCESS);
    }
    let Pools { pools, learned } = &list.known;
    let rows: Vec<_> = pools.iter().map(row).chain(learned.iter().map(learned_row)).collect();
    if rows.is_empty() {
        output::line(
            "no pools, and nothing was learned yet (declare one: jetway pool put NAME --image IMAGE)",
        );
        return Ok(ExitCode::SUCCESS);
    }
    output::table(&HEAD, &rows);
    for pool in pools {
        if let Some(error) = &pool.error {
            output::line(&format!("{}: {}", pool.name, output::shown(error)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

const HEAD: [&str; 10] =
    ["POOL", "IMAGE", "TIER", "MIN-MAX", "READY", "TARGET", "CLAIMED", "HIT RATE", "UNUSED", "REPLENISH"];

fn row(pool: &Pool) -> Vec<String> {
    let image = pool.spawn_config.as_ref().map(|spec| spec.executable.image.as_str());
    let size = format!("{}-{}", pool.min, pool.max);
    let mut cells = vec![pool.name.to_string(), word(image), tier(pool.tier), size];
    cells.extend(numbers(&pool.slots));
    cells
}

fn learned_row(kind: &LearnedKind) -> Vec<String> {
    let mut cells =
        vec!["(learned)".to_owned(), word(kind.image.as_deref()), tier(kind.tier), "-".to_owned()];
    cells.extend(numbers(&kind.slots));
    cells
}

fn tier(tier: SlotTier) -> String {
    match tier {
        SlotTier::Hot => "hot",
        SlotTier::Parked => "parked",
    }
    .to_owned()
}

/// What is the same for a pool and for one drone's part of it.
fn numbers(of: &Slots) -> [String; 6] {
    let rate = of.hit_rate.map_or("-".to_owned(), |rate| format!("{:.1} %", rate * 100.0));
    let replenish = match of.replenish_ms {
        0 => "-".to_owned(),
        ms => format!("{ms} ms"),
    };
    let unused = format!("{:.0} s", of.waste_slot_seconds);
    [of.ready.to_string(), of.target.to_string(), of.claimed.to_string(), rate, unused, replenish]
}

async fn get(arguments: &NameArguments) -> anyhow::Result<ExitCode> {
    let pool = arguments.api.get::<Pool>(&path(&arguments.name)).await?;
    if arguments.api.json {
        output::json(&pool.whole);
        return Ok(ExitCode::SUCCESS);
    }
    let pool = &pool.known;
    output::table(&HEAD, &[row(pool)]);
    if let Some(error) = &pool.error {
        output::line(&output::shown(error));
    }
    if pool.drones.is_empty() {
        output::line("no drone has told of its slots yet");
        return Ok(ExitCode::SUCCESS);
    }
    output::line("");
    let rows = pool.drones.iter().map(|drone| {
        let mut cells = vec![drone.drone.to_string()];
        cells.extend(numbers(&drone.slots));
        cells.push(drone.error.as_deref().map(output::shown).unwrap_or_default());
        cells
    });
    let head = ["DRONE", "READY", "TARGET", "CLAIMED", "HIT RATE", "UNUSED", "REPLENISH", "ERROR"];
    output::table(&head, &rows.collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

async fn put(arguments: &PutArguments) -> anyhow::Result<ExitCode> {
    let pool = arguments.api.put::<Pool>(&path(&arguments.name), &body(arguments)?).await?;
    if arguments.api.json {
        output::json(&pool.whole);
    } else {
        let Pool { min, max, tier: of, .. } = pool.known;
        output::line(&format!("{} keeps {min} to {max} {} slots ready", arguments.name, tier(of)));
    }
    Ok(ExitCode::SUCCESS)
}

fn body(arguments: &PutArguments) -> anyhow::Result<Value> {
    let mut body = match (&arguments.file, &arguments.image) {
        (Some(file), _) => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let json: Value =
                serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
            if json.get("executable").is_some() { json!({ "spawn_config": json }) } else { json }
        }
        (None, Some(image)) => {
            json!({ "spawn_config": { "executable": { "image": image, "env": environment(&arguments.env)? } } })
        }
        (None, None) => bail!("--image or --file says what the slots are made from"),
    };
    for (field, value) in [
        ("min", arguments.min.map(|n| json!(n))),
        ("max", arguments.max.map(|n| json!(n))),
        ("tier", arguments.tier.as_ref().map(|tier| json!(tier))),
        ("target_hit_rate", arguments.target_hit_rate.map(|rate| json!(rate))),
    ] {
        if let Some(value) = value {
            body[field] = value;
        }
    }
    Ok(body)
}

async fn rm(arguments: &NameArguments) -> anyhow::Result<ExitCode> {
    let answer = arguments.api.delete::<Deleted>(&path(&arguments.name)).await?;
    if arguments.api.json {
        output::json(&answer.whole);
    } else {
        output::line(&format!("{} is removed; its sessions go on", arguments.name));
    }
    Ok(ExitCode::SUCCESS)
}

fn path(name: &str) -> String {
    format!("/ctrl/pools/{}", encode(name))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        put: PutArguments,
    }

    fn body_of(words: &[&str]) -> Value {
        body(&Line::parse_from(["put"].iter().chain(words)).put).unwrap()
    }

    #[test]
    fn flags_and_files_become_the_body() {
        let flags = ["p", "--image", "app", "--env", "A=b", "--min", "2", "--max", "9", "--tier", "hot"];
        let executable = json!({ "image": "app", "env": { "A": "b" } });
        assert_eq!(
            body_of(&flags),
            json!({ "spawn_config": { "executable": executable }, "min": 2, "max": 9, "tier": "hot" })
        );
        let file = std::env::temp_dir().join(format!("jetway-pool-{}.json", std::process::id()));
        let name = file.display().to_string();
        std::fs::write(&file, r#"{ "executable": { "image": "app" } }"#).unwrap();
        let spec = json!({ "executable": { "image": "app" } });
        assert_eq!(body_of(&["p", "--file", &name, "--min", "3"]), json!({ "spawn_config": spec, "min": 3 }));
        std::fs::write(&file, r#"{ "spawn_config": { "executable": { "image": "app" } }, "min": 1 }"#)
            .unwrap();
        assert_eq!(body_of(&["p", "--file", &name, "--min", "3"]), json!({ "spawn_config": spec, "min": 3 }));
        std::fs::remove_file(&file).unwrap();
        assert!(Line::try_parse_from(["put", "p"]).is_err());
        assert!(Line::try_parse_from(["put", "p", "--image", "a", "--file", "f"]).is_err());
    }

    #[test]
    fn a_pool_and_a_learned_kind_are_rows_alike() {
        let spec = json!({ "executable": { "image": "app", "env": [] } });
        let both = json!({
            "ready": 7, "target": 8, "making": 0, "claimed": 9, "missed": 1, "hit_rate": 0.9,
            "waste_slot_seconds": 90.5, "make_ms": 1, "replenish_ms": 450, "drones": [], "tier": "parked",
            "cluster": "c", "pool": "",
        });
        let with = |more: Value| {
            let mut whole = both.clone();
            whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            whole
        };
        let pool = with(json!({
            "name": "p", "min": 8, "max": 64, "target_hit_rate": 0.99, "spawn_config": spec,
        }));
        let text = row(&serde_json::from_value(pool).unwrap()).join("|");
        assert_eq!(text, "p|app|parked|8-64|7|8|9|90.0 %|90 s|450 ms");
        let learned = with(json!({
            "hash": "0".repeat(32), "image": "app", "rate_per_second": 1.0, "peakedness": 1.0,
            "last_arrival": 0, "slots": 8,
        }));
        let text = learned_row(&serde_json::from_value(learned).unwrap()).join("|");
        assert!(text.starts_with("(learned)|app|parked|-|7|8|9|"), "{text}");
    }
}
