//! Ends: stop and grace, signals, statuses, orphans.

use std::time::{Duration, Instant};

use jetway_protocol::init::{FromInit, ToInit};

use crate::harness::{Slot, eventually, kill, shell};

/// Says "up" by a file before it goes on, so that no signal comes before its trap.
fn trapping(slot: &Slot, id: &str, script: &str) -> (jetway_protocol::init::Session, std::path::PathBuf) {
    let up = slot.path("up");
    let mut session = shell(id, &format!("{script}; : > \"$UP\"; while :; do sleep 0.01; done"));
    session.env.insert("UP".into(), up.to_str().unwrap().into());
    (session, up)
}

fn wait_for(path: &std::path::Path) {
    eventually("the application", || path.exists().then_some(()));
}

#[test]
fn statuses_pass_through() {
    for (script, code, signal, status) in [
        ("exit 0", Some(0), None, 0),
        ("exit 42", Some(42), None, 42),
        ("kill -9 $$", None, Some(9), 137),
        ("kill -15 $$", None, Some(15), 143),
    ] {
        let mut slot = Slot::new(&[]);
        let (mut wire, _) = slot.accept();
        wire.claim(shell("a", script));
        let exited = FromInit::Exited { backend: "a".parse().unwrap(), code, signal };
        assert_eq!(wire.hear(), exited, "{script}");
        assert_eq!(slot.status().code(), Some(status), "{script}");
    }
}

#[test]
fn a_stop_while_parked_ends_it_at_once() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    wire.stop(15, 10_000);
    assert_eq!(slot.status().code(), Some(0));
    let mut slot = Slot::new(&[]);
    let (_wire, _) = slot.accept();
    kill(slot.pid(), 15);
    assert_eq!(slot.status().code(), Some(0), "by a signal, too");
}

#[test]
fn a_stop_sends_its_signal_once() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let (session, up) = trapping(&slot, "a", "trap 'echo told' USR1; trap 'exit 7' USR2");
    let pid = wire.claim(session);
    wait_for(&up);
    wire.stop(10, 60_000);
    wire.stop(10, 60_000);
    wire.say(&ToInit::Ping);
    assert_eq!(wire.hear(), FromInit::Pong);
    kill(pid, 12);
    assert!(matches!(wire.hear(), FromInit::Exited { code: Some(7), .. }));
    assert_eq!(slot.output().matches("told").count(), 1);
}

#[test]
fn a_stop_right_behind_its_session_reaches_the_application() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let mut both = serde_json::to_vec(&ToInit::Session(Box::new(shell("a", "exec sleep 60")))).unwrap();
    both.extend(b"\n{\"type\":\"stop\",\"signal\":15,\"grace_ms\":60000}\n");
    wire.say_raw(&both);
    assert!(matches!(wire.hear(), FromInit::Taken { .. }));
    assert!(matches!(wire.hear(), FromInit::Started { .. }));
    assert!(matches!(wire.hear(), FromInit::Exited { signal: Some(15), .. }));
    assert_eq!(slot.status().code(), Some(143));
}

#[test]
fn after_the_grace_everything_is_killed_and_a_repeated_stop_can_shorten_it() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let (session, up) = trapping(&slot, "a", "trap '' TERM; sleep 60 & true");
    wire.claim(session);
    wait_for(&up);
    let asked = Instant::now();
    wire.stop(15, 60_000);
    wire.stop(15, 300);
    wire.stop(15, 60_000);
    assert!(matches!(wire.hear(), FromInit::Exited { code: None, signal: Some(9), .. }));
    assert!((Duration::from_millis(300)..Duration::from_secs(20)).contains(&asked.elapsed()));
    assert_eq!(slot.status().code(), Some(137));
    slot.output();
}

#[test]
fn signals_to_init_are_forwarded() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let names = ["HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "ALRM", "CONT"];
    let traps = format!(
        r#"for s in {}; do trap "echo $s >> '$UP.got'" $s; done; trap 'exit 3' TERM"#,
        names.join(" ")
    );
    let (session, up) = trapping(&slot, "a", &traps);
    wire.claim(session);
    wait_for(&up);
    for signal in [1, 2, 3, 10, 12, 28, 14, 18] {
        kill(slot.pid(), signal);
    }
    eventually("every signal", || {
        let got = std::fs::read_to_string(slot.path("up.got")).unwrap_or_default();
        names.iter().all(|name| got.lines().any(|line| line == *name)).then_some(())
    });
    kill(slot.pid(), 15);
    assert!(matches!(wire.hear(), FromInit::Exited { code: Some(3), .. }));
    assert_eq!(slot.status().code(), Some(3));
}

#[test]
fn orphans_are_reaped() {
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let pids = slot.path("pids");
    let mut session =
        shell("a", r#"for i in 1 2 3 4 5; do (sh -c 'echo $$ >> "$PIDS"' &); done; exec sleep 60"#);
    session.env.insert("PIDS".into(), pids.to_str().unwrap().into());
    wire.claim(session);
    eventually("five orphans, all reaped", || {
        let text = std::fs::read_to_string(&pids).unwrap_or_default();
        let gone = text.lines().filter(|pid| !std::path::Path::new("/proc").join(pid).exists());
        (gone.count() == 5).then_some(())
    });
}

#[test]
fn who_is_left_when_the_application_ends_is_killed() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    wire.claim(shell("a", "sleep 600 & exit 0"));
    assert_eq!(slot.status().code(), Some(0));
    // Its output is closed only when the one left behind has gone.
    slot.output();
}

#[test]
fn without_a_line_it_ends_all_the_same() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let (session, up) = trapping(&slot, "a", "trap 'exit 6' USR1");
    let pid = wire.claim(session);
    wait_for(&up);
    std::fs::remove_file(slot.path("drone.sock")).unwrap();
    drop(wire);
    kill(pid, 10);
    assert_eq!(slot.status().code(), Some(6));
    std::fs::write(slot.path("drone.sock"), "").unwrap();
}

#[test]
fn misuse_is_said() {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_jetway-init")).arg("--what").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("unknown option \"--what\"") && message.contains("usage: jetway-init"),
        "{message}"
    );
}
