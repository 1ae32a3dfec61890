//! What an engine that was killed has forgotten: a container that it had made and not started. Its shim waits with runc's own
//! init (`runc create` without the `runc start`), or with nothing; none of the container's program ever ran. Docker with
//! `--live-restore` takes such a container for one that does not run, so that its removal ends no process, and from then on
//! nobody who talks to the engine can ask for its end. One that had been started ends by itself, because Jetway's init runs in
//! it: anything else below a shim is left.

use std::fmt;

use crate::network::{processes_in, run};
use crate::parts::children;
use crate::places::Host;

/// The name of a process that waits between `runc create` and `runc start`.
const BEFORE_START: &str = "runc:[2:INIT]";

pub struct Forgotten {
    pub id: String,
    pub shim: i32,
    /// Indices, on the host, of the other ends of its links.
    pub links: Vec<String>,
    host: u8,
    below: Vec<String>,
}

impl fmt::Display for Forgotten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, host, below, .. } = self;
        write!(
            f,
            "engine{host} was killed over container {id:.12} and has forgotten it: never started, {below:?}"
        )
    }
}

/// On a drone's host, of an engine that was killed.
pub fn on(number: u8) -> Vec<Forgotten> {
    let pids = processes_in(&Host::Drone(number).namespace());
    pids.into_iter()
        .filter(|pid| name(*pid).starts_with("containerd-shim"))
        .filter_map(|shim| of(number, shim))
        .collect()
}

fn of(host: u8, shim: i32) -> Option<Forgotten> {
    let pids = children_of(shim);
    let below: Vec<_> = pids.iter().map(|pid| name(*pid)).collect();
    let id = id(shim).filter(|_| is_unstarted(&below))?;
    let links = pids.into_iter().flat_map(links).collect();
    Some(Forgotten { id, shim, links, host, below })
}

fn is_unstarted(below: &[String]) -> bool {
    below.iter().all(|name| name == BEFORE_START)
}

/// Which container it is the shim of: its own arguments say so.
fn id(shim: i32) -> Option<String> {
    let arguments = std::fs::read_to_string(format!("/proc/{shim}/cmdline")).ok()?;
    let mut arguments = arguments.split('\0').skip_while(|argument| *argument != "-id");
    arguments.nth(1).map(str::to_owned)
}

fn links(pid: i32) -> Vec<String> {
    let listed = run("nsenter", &["-t", &pid.to_string(), "-n", "ip", "-o", "link"]).unwrap_or_default();
    let names = listed.lines().filter_map(|line| line.split(": ").nth(1));
    names.filter_map(|name| name.split_once("@if")).map(|(_, index)| index.to_owned()).collect()
}

pub fn children_of(pid: i32) -> Vec<i32> {
    let pids = u32::try_from(pid).map(children).unwrap_or_default();
    pids.into_iter().filter_map(|pid| i32::try_from(pid).ok()).collect()
}

pub fn name(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Where only such containers are excused, one with a program of its own is not.
pub fn is_strict() -> bool {
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    is_unstarted(&named(&[]))
        && is_unstarted(&named(&[BEFORE_START]))
        && !is_unstarted(&named(&["jetway-init"]))
        && !is_unstarted(&named(&[BEFORE_START, "app"]))
}
