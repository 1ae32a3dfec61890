//! Child processes with their logs in files, killed with the test if it dies.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::eventually;

/// Where the executables under test are: `JETWAY_BIN`, set by `tests/run`, else beside the test binary.
pub fn executable(name: &str) -> anyhow::Result<PathBuf> {
    let directory = match std::env::var_os("JETWAY_BIN") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let test = std::env::current_exe()?;
            test.ancestors().nth(2).context("target directory")?.to_owned()
        }
    };
    let path = directory.join(name);
    if !path.is_file() {
        bail!("{} is missing: run the tests with tests/run", path.display());
    }
    Ok(path)
}

pub struct Process {
    child: Child,
}

impl Process {
    pub fn start(log: &Path, command: &mut Command) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(kill(pid, signal)?)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends the signal and waits for the end; true if the exit status was 0.
    pub async fn stop(&mut self, signal: Signal) -> anyhow::Result<bool> {
        self.signal(signal)?;
        let child = &mut self.child;
        let status =
            eventually(&format!("process ends after {signal}"), Duration::from_secs(25), async || {
                child.try_wait().map_err(|error| error.to_string())?.ok_or("it runs".to_owned())
            })
            .await?;
        Ok(status.success())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _killed = self.child.kill();
            let _waited = self.child.wait();
        }
    }
}
