//! Real inits as the processes in the fake engine's containers, on real lines: for what only a
//! process does, such as dying between any two instructions. Everything else of the engine stays
//! made up.
//!
//! They are no PID 1, so an application outlives its init here; how often one was executed can be
//! counted all the same.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use jetway_protocol::ids::SlotId;

use super::super::init_line::{self, SOCKET};
use super::{ContainerStatus, Fake, InitLine};

/// Where they come from, and the command that each container has.
pub struct RealInits {
    executable: PathBuf,
    directory: PathBuf,
    command: Vec<String>,
    children: HashMap<SlotId, Child>,
}

impl Drop for RealInits {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            let _it_may_have_ended = child.kill();
            let _its_status_is_nobodys = child.wait();
        }
    }
}

impl Fake {
    /// From now on, containers have a process. `directory`: for the slots' sockets.
    pub fn has_real_inits(&self, executable: PathBuf, directory: PathBuf, command: &[&str]) {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        self.inner().real = Some(RealInits { executable, directory, command, children: HashMap::new() });
    }

    pub fn pid(&self, slot: SlotId) -> Option<u32> {
        self.inner().real.as_ref()?.children.get(&slot).map(Child::id)
    }

    /// `None`: this engine's inits are made up.
    pub(super) fn open_real_line(&self, slot: SlotId) -> Option<io::Result<InitLine>> {
        let directory = self.inner().real.as_ref()?.directory.join(slot.to_string());
        Some(init_line::open(&self.lifecycle, &directory, None))
    }

    pub(super) fn start_really(&self, slot: SlotId) {
        let mut inner = self.inner();
        let Some(real) = &mut inner.real else { return };
        let mut init = Command::new(&real.executable);
        init.arg("--socket").arg(real.directory.join(slot.to_string()).join(SOCKET));
        init.arg("--").args(&real.command).stdin(Stdio::null());
        real.children.insert(slot, init.spawn().unwrap());
    }

    pub(super) fn look_really(&self, slot: SlotId) {
        let mut inner = self.inner();
        let child = inner.real.as_mut().and_then(|real| real.children.get_mut(&slot));
        let Some(status) = child.and_then(|child| child.try_wait().unwrap()) else { return };
        let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(0);
        if let Some(container) = inner.containers.get_mut(&slot) {
            container.status = ContainerStatus::Exited { code, oom_killed: false };
        }
    }

    /// True: there was one to kill.
    pub(super) fn kill_really(&self, slot: SlotId) -> bool {
        let mut inner = self.inner();
        let child = inner.real.as_mut().and_then(|real| real.children.get_mut(&slot));
        child.is_some_and(|child| child.kill().is_ok())
    }

    pub(super) fn remove_really(&self, slot: SlotId) {
        let mut inner = self.inner();
        let Some(real) = &mut inner.real else { return };
        if let Some(mut child) = real.children.remove(&slot) {
            let _it_may_have_ended = child.kill();
            child.wait().unwrap();
        }
        let _it_may_be_gone = std::fs::remove_dir_all(real.directory.join(slot.to_string()));
    }
}
