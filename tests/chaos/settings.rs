//! What a run is asked for: `--minutes M`, `--seed S`, `--lease SECONDS`, `--keys K`, `--clients N`, `--keep-logs DIR`; or
//! `--sweep`, which only takes away what a killed run has left. Also the few words by which nextest asks a test program.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

/// With set-up and take-down it stays below four minutes on two busy cores.
const MINUTES: f64 = 2.0;
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
    Sweep,
}

pub fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Asked> {
    let mut settings = Settings {
        run: Duration::from_secs_f64(MINUTES * 60.0),
        seed: seen_now(),
        lease: Duration::from_secs(LEASE_SECONDS),
        keys: KEYS,
        clients: CLIENTS,
        keep_logs: std::env::var_os("JETWAY_CHAOS_LOGS").map(PathBuf::from),
    };
    let (mut arguments, mut list, mut ignored) = (arguments.peekable(), false, false);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--minutes" => {
                let minutes: f64 = value()?.parse().context("--minutes is a number")?;
                settings.run = Duration::try_from_secs_f64(minutes * 60.0).context("--minutes")?;
            }
            "--seed" => settings.seed = value()?.parse().context("--seed is a whole number")?,
            "--lease" => {
                settings.lease = Duration::from_secs(value()?.parse().context("--lease is in seconds")?)
            }
            "--keys" => settings.keys = value()?.parse().context("--keys is a number")?,
            "--clients" => settings.clients = value()?.parse().context("--clients is a number")?,
            "--keep-logs" => settings.keep_logs = Some(value()?.into()),
            "--sweep" => return Ok(Asked::Sweep),
            "--list" => list = true,
            "--ignored" => ignored = true,
            "--format" => drop(value()?),
            // How nextest and cargo test call the one test that there is.
            "--exact" | "--nocapture" | "chaos" | "terse" => {}
            other => bail!("unknown argument {other}; see tests/chaos/settings.rs"),
        }
    }
    match (list, ignored) {
        (true, true) => std::process::exit(0),
        (true, false) => Ok(Asked::List),
        (false, _) => Ok(Asked::Run(settings)),
    }
}

/// A run without a seed takes one from the clock, and prints it.
fn seen_now() -> u64 {
    crate::seen::now() / 1_000_000 % 1_000_000_007
}
