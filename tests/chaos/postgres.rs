//! The Postgres of the run: its commits survive its own death (not the machine's), and it is reached over TCP.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::network::processes_in;
use crate::parts::{on_host, spawn};
use crate::places::{POSTGRES_PORT, Part};

/// What an immediate stop takes, unless it is dead already and its file is left.
const STOP: Duration = Duration::from_secs(8);

fn programs() -> anyhow::Result<PathBuf> {
    if let Some(directory) = std::env::var_os("JETWAY_POSTGRES_BIN") {
        return Ok(directory.into());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut candidates: Vec<_> = path.split(':').map(PathBuf::from).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        candidates.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    candidates
        .into_iter()
        .find(|directory| directory.join("initdb").is_file())
        .context("no Postgres programs found; install them or set JETWAY_POSTGRES_BIN")
}

pub fn version() -> String {
    let said = programs().and_then(|programs| {
        crate::network::run(&programs.join("postgres").display().to_string(), &["--version"])
    });
    said.unwrap_or_default().trim().to_owned()
}

/// Postgres refuses to be root.
fn user() -> String {
    let wanted = std::env::var("JETWAY_TEST_POSTGRES_USER").unwrap_or_else(|_| "postgres".to_owned());
    if matches!(nix::unistd::User::from_name(&wanted), Ok(Some(_))) { wanted } else { "nobody".to_owned() }
}

fn unprivileged(command: &mut Command) -> anyhow::Result<()> {
    let user = nix::unistd::User::from_name(&user())?.context("there is no user for Postgres")?;
    let (uid, gid) = (format!("--reuid={}", user.uid), format!("--regid={}", user.gid));
    command.args([uid, gid, "--clear-groups".to_owned(), "--".to_owned()]);
    Ok(())
}

pub fn make() -> anyhow::Result<()> {
    let (directory, programs) = (Part::Postgres.directory(), programs()?);
    let owner = nix::unistd::User::from_name(&user())?.context("there is no user for Postgres")?;
    nix::unistd::chown(&directory, Some(owner.uid), Some(owner.gid))?;
    let mut command = Command::new("setpriv");
    unprivileged(&mut command)?;
    command.arg(programs.join("initdb")).arg("-D").arg(directory.join("data"));
    command.args(["-U", "jetway", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
    let output = command.current_dir(&directory).output()?;
    ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    let rules = directory.join("data").join("pg_hba.conf");
    let text = std::fs::read_to_string(&rules)?;
    std::fs::write(&rules, format!("{text}\nhost all all 10.250.0.0/16 trust\n"))?;
    Ok(())
}

pub fn start() -> anyhow::Result<Child> {
    let directory = Part::Postgres.directory();
    let mut command = on_host(Part::Postgres, "setpriv");
    unprivileged(&mut command)?;
    command.arg(programs()?.join("postgres")).arg("-D").arg(directory.join("data"));
    for setting in [
        "listen_addresses=*".to_owned(),
        format!("port={POSTGRES_PORT}"),
        format!("unix_socket_directories={}", directory.display()),
        // A commit must survive the death of Postgres, which is a fault here; the machine's own death is none.
        "fsync=off".to_owned(),
        "synchronous_commit=on".to_owned(),
        // Below its own directory, so that nothing stays elsewhere when it is killed.
        "dynamic_shared_memory_type=mmap".to_owned(),
        "max_connections=200".to_owned(),
        "shared_buffers=32MB".to_owned(),
    ] {
        command.arg("-c").arg(setting);
    }
    command.current_dir(&directory);
    spawn(Part::Postgres, &mut command)
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
