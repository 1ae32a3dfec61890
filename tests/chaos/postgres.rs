//! The Postgres of the run: its commits survive its own death (not the machine's), and it is reached over TCP.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::Context;
use jetway_testkit::postgres::{Cluster, give, programs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::Connection;

use crate::network::{processes_in, run};
use crate::parts::{on_host, spawn};
use crate::places::{POSTGRES_PORT, Part};

/// What an immediate stop takes, unless it is dead already and its file is left.
const STOP: Duration = Duration::from_secs(8);

/// A promotion waits for so long by itself.
const STATEMENT: Duration = Duration::from_secs(40);

fn cluster() -> Cluster {
    Cluster::of(&Part::Postgres.directory())
}

pub fn version() -> String {
    let said =
        programs().and_then(|programs| run(&programs.join("postgres").display().to_string(), &["--version"]));
    said.unwrap_or_default().trim().to_owned()
}

pub fn make() -> anyhow::Result<()> {
    let made = Cluster::make(&Part::Postgres.directory())?;
    let rules = made.data().join("pg_hba.conf");
    let text = std::fs::read_to_string(&rules)?;
    std::fs::write(&rules, format!("{text}\nhost all all 10.250.0.0/16 trust\n"))?;
    Ok(())
}

pub fn start() -> anyhow::Result<Child> {
    let port = format!("port={POSTGRES_PORT}");
    // A commit must survive the death of Postgres, which is a fault here; the machine's own death is none.
    let more = ["listen_addresses=*", &port, "synchronous_commit=on", "max_connections=200"];
    let mut command = cluster().server(&more, |program| on_host(Part::Postgres, program))?;
    spawn(Part::Postgres, &mut command)
}

fn entries(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    Ok(std::fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?)
}

/// What a standby has that hears no more from now on: the primary's files, while it is stopped.
pub fn copy() -> anyhow::Result<()> {
    let directory = Part::Postgres.directory();
    let (data, copy) = (directory.join("data"), directory.join("copy"));
    if copy.exists() {
        std::fs::remove_dir_all(&copy)?;
    }
    run("cp", &["-a", &data.display().to_string(), &copy.display().to_string()]).map(drop)
}

/// The copy takes the dead primary's place, to be promoted. The directory stays: Postgres finds by it, and frees, the shared memory
/// of the one that was killed.
pub fn take_over() -> anyhow::Result<()> {
    let directory = Part::Postgres.directory();
    let (data, copy) = (directory.join("data"), directory.join("copy"));
    let pid = data.join("postmaster.pid");
    for entry in entries(&data)?.into_iter().filter(|entry| *entry != pid) {
        if entry.is_dir() { std::fs::remove_dir_all(entry)? } else { std::fs::remove_file(entry)? }
    }
    for entry in entries(&copy)? {
        let name = entry.file_name().context("a file's name")?.to_owned();
        if name != "postmaster.pid" {
            std::fs::rename(&entry, data.join(name))?;
        }
    }
    std::fs::remove_dir_all(copy)?;
    let signal = data.join("standby.signal");
    std::fs::write(&signal, "")?;
    give(&signal)
}

/// One statement, past every link.
pub async fn execute(sql: &'static str) -> anyhow::Result<()> {
    let done = async {
        let mut connection = cluster().connect().await?;
        sqlx::raw_sql(sql).execute(&mut connection).await?;
        anyhow::Ok(connection.close().await?)
    };
    tokio::time::timeout(STATEMENT, done).await.context("Postgres does not answer")?
}

/// Ends it so that it gives its shared memory back, whoever started it.
pub fn stop() {
    let file = Part::Postgres.directory().join("data").join("postmaster.pid");
    let pid = || std::fs::read_to_string(&file).ok()?.lines().next()?.parse::<i32>().ok();
    // The file outlives a kill, and its number may be somebody else's by now.
    let ours = processes_in(&Part::Postgres.host().namespace());
    let Some(found) = pid().filter(|found| ours.contains(found)) else { return };
    let start = Instant::now();
    // It may have been stopped, and its children with it.
    for pid in &ours {
        let _sent = kill(Pid::from_raw(*pid), Signal::SIGCONT);
    }
    let _sent = kill(Pid::from_raw(found), Signal::SIGQUIT);
    while pid() == Some(found) && start.elapsed() < STOP {
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
