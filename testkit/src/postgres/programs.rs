//! Postgres' programs and the account that they run as, found as `scripts/test-postgres` finds them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use nix::unistd::{Uid, User, chown};

/// The directory of the programs.
pub fn programs() -> anyhow::Result<PathBuf> {
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
        .find(|directory| ["initdb", "pg_basebackup"].iter().all(|name| directory.join(name).is_file()))
        .context("no Postgres programs found; install them or set JETWAY_POSTGRES_BIN")
}

/// Postgres refuses to be root; every other user runs it as themselves.
fn other_user() -> anyhow::Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let wanted = std::env::var("JETWAY_TEST_POSTGRES_USER").unwrap_or_else(|_| "postgres".to_owned());
    let found = User::from_name(&wanted)?.or(User::from_name("nobody")?);
    Ok(Some(found.context("there is no user for Postgres")?))
}

/// Gives a file to the account that Postgres runs as.
pub fn give(path: &Path) -> anyhow::Result<()> {
    if let Some(user) = other_user()? {
        chown(path, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

/// A program of Postgres, as that account. `launch` makes the command of the program whose name it
/// is given.
pub fn unprivileged(program: &str, launch: impl FnOnce(&str) -> Command) -> anyhow::Result<Command> {
    let program = programs()?.join(program).display().to_string();
    let Some(user) = other_user()? else { return Ok(launch(&program)) };
    let mut command = launch("setpriv");
    command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]);
    command.args(["--clear-groups", "--"]).arg(program);
    Ok(command)
}

/// Runs a program of Postgres to its end, in this directory.
pub fn run(program: &str, directory: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = unprivileged(program, |program| Command::new(program))?;
    let output = command.args(arguments).current_dir(directory).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}
