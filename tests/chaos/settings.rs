//! What a run is asked for: `--minutes M`, `--seed S`, `--lease SECONDS`, `--keys K`, `--clients N`, `--keep-logs DIR`; or
//! `--sweep`, which only takes away what a killed run has left. Asked for nothing it is the short run of `make test`, always the same
//! one. Also the few words by which nextest and cargo ask a test program.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

/// With set-up and take-down it stays below four minutes on two busy cores.
const MINUTES: f64 = 2.0;
/// Of the short run, so that every change is judged by the same faults.
const SEED: u64 = 2026;
const NAME: &str = "chaos";
const LEASE_SECONDS: u64 = 12;
const KEYS: u64 = 12;
const CLIENTS: u64 = 14;

#[derive(Debug, Clone)]
pub struct Settings {
    pub run: Duration,
    pub seed: u64,
    pub lease: Duration,
    pub keys: u64,
    pub clients: u64,
    /// Where the parts' logs go if something was found.
    pub keep_logs: Option<PathBuf>,
}

pub enum Asked {
    Run(Settings),
    List,
    /// Another test is wanted.
    Nothing,
    Sweep,
}

pub fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Asked> {
    let mut settings = Settings {
        run: Duration::from_secs_f64(MINUTES * 60.0),
        seed: SEED,
        lease: Duration::from_secs(LEASE_SECONDS),
        keys: KEYS,
        clients: CLIENTS,
        keep_logs: std::env::var_os("JETWAY_CHAOS_LOGS").map(PathBuf::from),
    };
    let (mut minutes, mut seed, mut list, mut ignored) = (None::<f64>, None, false, false);
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--minutes" => minutes = Some(value()?.parse().context("--minutes is a number")?),
            "--seed" => seed = Some(value()?.parse().context("--seed is a whole number")?),
            "--lease" => {
                settings.lease = Duration::from_secs(value()?.parse().context("--lease is in seconds")?)
            }
            "--keys" => settings.keys = value()?.parse().context("--keys is a number")?,
            "--clients" => settings.clients = value()?.parse().context("--clients is a number")?,
            "--keep-logs" => settings.keep_logs = Some(value()?.into()),
            "--sweep" => return Ok(Asked::Sweep),
            "--list" => list = true,
            "--ignored" => ignored = true,
            // How nextest and cargo test call the one test that there is.
            "--format" | "--test-threads" | "--skip" => drop(value()?),
            "--exact" | "--nocapture" | "--quiet" => {}
            other if other.starts_with("--test-threads=") => {}
            other if other.starts_with('-') => bail!("unknown argument {other}; see tests/chaos/settings.rs"),
            other if NAME.contains(other) => {}
            _ => return Ok(Asked::Nothing),
        }
    }
    if let Some(minutes) = minutes {
        settings.run = Duration::try_from_secs_f64(minutes * 60.0).context("--minutes")?;
        settings.seed = seen_now();
    }
    settings.seed = seed.unwrap_or(settings.seed);
    match (list, ignored) {
        (true, true) => std::process::exit(0),
        (true, false) => Ok(Asked::List),
        (false, _) => Ok(Asked::Run(settings)),
    }
}

/// A longer run without a seed takes one from the clock, and prints it.
fn seen_now() -> u64 {
    crate::seen::now() / 1_000_000 % 1_000_000_007
}
