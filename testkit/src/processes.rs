//! Child processes with their logs in files, killed with the test if it dies; the executables under test, and ports for them.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually;

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

/// A port that is free, and given to no other test of this process.
pub fn free_port() -> anyhow::Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        if GIVEN.lock().is_ok_and(|mut given| given.insert(port)) {
            return Ok(port);
        }
    }
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
