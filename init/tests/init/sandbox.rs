//! The process that only holds a namespace.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::harness::{eventually, kill, pause};

fn holder(wanted: Option<&Path>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetway-init"));
    let child = command.arg("--sandbox").args(wanted).spawn().unwrap();
    let pid = child.id();
    let blocked = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:").map(str::to_owned));
        mask.is_some_and(|mask| mask.trim() != "0".repeat(16)).then_some(())
    };
    eventually("signals taken over", blocked);
    child
}

#[test]
fn it_sleeps_in_little_memory_and_ends_when_asked() {
    let mut holder = holder(None);
    let pid = holder.id() as i32;
    let status = || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let number = |name: &str| {
        let status = status();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    assert!(number("RssAnon:") < 512, "{} kB of its own", number("RssAnon:"));
    kill(pid, libc::SIGWINCH);
    kill(pid, libc::SIGUSR1);
    let (before, since) = (number("voluntary_ctxt_switches:"), Instant::now());
    while since.elapsed() < Duration::from_millis(300) {
        pause();
    }
    assert!(number("voluntary_ctxt_switches:") - before <= 3, "it woke up for more than the two signals");
    assert_eq!(holder.try_wait().unwrap(), None);
    kill(pid, libc::SIGTERM);
    assert_eq!(eventually("its end", || holder.try_wait().unwrap()).code(), Some(0));
}

#[test]
fn it_ends_with_the_file_that_says_that_it_is_wanted() {
    let wanted = std::env::temp_dir().join(format!("jetway-wanted-{}", std::process::id()));
    std::fs::write(&wanted, "").unwrap();
    let mut holder = holder(Some(&wanted));
    assert_eq!(holder.try_wait().unwrap(), None);
    std::fs::remove_file(&wanted).unwrap();
    assert_eq!(eventually("its end", || holder.try_wait().unwrap()).code(), Some(0));
}
