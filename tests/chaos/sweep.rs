//! Takes away everything of a chaos run, whatever state it is in: by name, so that it also works after a run that was
//! killed. What should have been gone by itself is `left.rs`'s business, and is asked first.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::network::{namespaces, processes_in, run};
use crate::places::{CGROUP, WAN, root, run_dir};
use crate::postgres;

/// What was killed is gone at once, but for the kernel's own work.
const GONE: Duration = Duration::from_secs(20);

fn processes() -> Vec<i32> {
    let mut all = namespaces();
    all.push(WAN.to_owned());
    let mut pids: Vec<_> = all.iter().flat_map(|namespace| processes_in(namespace)).collect();
    for group in cgroups() {
        let listed = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    pids.retain(|pid| *pid != own && *pid > 1);
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Ours, in every hierarchy, deepest first.
fn cgroups() -> Vec<PathBuf> {
    let mut roots = vec![Path::new("/sys/fs/cgroup").join(CGROUP)];
    if let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") {
        roots.extend(hierarchies.flatten().map(|hierarchy| hierarchy.path().join(CGROUP)));
    }
    let mut found = Vec::new();
    for root in roots {
        if root.is_dir() {
            below(&root, &mut found);
        }
    }
    found
}

/// Those of single containers.
pub fn cgroups_of_containers() -> Vec<PathBuf> {
    cgroups().into_iter().filter(|group| group.file_name().is_none_or(|name| name != CGROUP)).collect()
}

fn below(directory: &Path, found: &mut Vec<PathBuf>) {
    if let Ok(entries) = std::fs::read_dir(directory) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            below(&entry.path(), found);
        }
    }
    found.push(directory.to_owned());
}

fn unmount() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let root = root();
    let ours = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|at| Path::new(at).starts_with(&root));
    let ours: Vec<_> = ours.collect();
    for at in ours.into_iter().rev() {
        let _gone = run("umount", &["-l", at]);
    }
}

/// What could not be taken away.
pub fn sweep() -> Vec<String> {
    postgres::stop();
    let start = Instant::now();
    loop {
        let left = processes();
        if left.is_empty() || start.elapsed() > GONE {
            break;
        }
        for pid in left {
            let _killed = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    unmount();
    for namespace in namespaces() {
        let _gone = run("ip", &["netns", "delete", &namespace]);
    }
    for group in cgroups() {
        let _gone = std::fs::remove_dir(group);
    }
    let directories = [root(), run_dir(0).parent().map(Path::to_owned).unwrap_or_default()];
    for directory in &directories {
        let _gone = std::fs::remove_dir_all(directory);
    }
    let mut left: Vec<_> = processes().into_iter().map(|pid| format!("process {pid}")).collect();
    left.extend(namespaces().into_iter().map(|name| format!("namespace {name}")));
    left.extend(cgroups().into_iter().map(|group| format!("cgroup {}", group.display())));
    left.extend(
        directories
            .iter()
            .filter(|directory| directory.exists())
            .map(|at| format!("directory {}", at.display())),
    );
    left
}

/// The router itself: the very last, by the process that stands on it.
pub fn leave() {
    let _gone = run("ip", &["netns", "delete", WAN]);
}
