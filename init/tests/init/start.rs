//! Parking, the claim, and what is executed.

use jetway_protocol::ids::BackendId;
use jetway_protocol::init::{FromInit, Session, ToInit};
use jetway_protocol::spec::InitMode;

use crate::harness::{Slot, eventually, kill, session, shell};

#[test]
fn it_parks_and_runs_the_images_command_with_the_sessions_environment() {
    let script = r#"echo "$KEPT $OVER $NEW $1 $(pwd)"; read line || echo nothing to read"#;
    let env = [("KEPT", "image"), ("OVER", "image")];
    let mut slot = Slot::with_env(&["sh", "-c", script, "sh", "argument"], &env);
    let (mut wire, hello) = slot.accept();
    assert_eq!((hello.nonce.len(), &hello.session), (32, &None));
    assert!(hello.boot_id.is_some());
    let mut session = session("a", &[]);
    session.argv = None;
    session.working_dir = Some("/usr".into());
    session.env = [("OVER".into(), "session".into()), ("NEW".into(), "new".into())].into();
    wire.claim(session);
    assert!(matches!(wire.hear(), FromInit::Exited { code: Some(0), signal: None, .. }));
    assert_eq!(slot.output(), "image session new argument /usr\nnothing to read\n");
    assert_eq!(slot.status().code(), Some(0));
}

#[test]
fn the_program_is_found_on_the_sessions_path() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let directory = slot.path("bin");
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::symlink("/bin/sh", directory.join("only-here")).unwrap();
    let mut session = session("a", &["only-here", "-c", "exit 5"]);
    session.env = [("PATH".into(), format!("/nowhere:{}", directory.display()))].into();
    wire.claim(session);
    assert_eq!(slot.status().code(), Some(5));
}

fn fails(session: impl FnOnce(&Slot) -> Session, sentence: &str, status: i32) {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let session = session(&slot);
    wire.give(session);
    match wire.hear() {
        FromInit::StartFailed { message, .. } => assert!(message.contains(sentence), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(slot.status().code(), Some(status), "{sentence}");
}

#[test]
fn what_cannot_be_executed_is_said_in_a_sentence() {
    let file = |slot: &Slot, text: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = slot.path("file");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    fails(|_| session("a", &["no-such-program"]), "was not found on the PATH", 127);
    fails(|_| session("a", &["/no/such"]), "\"/no/such\" does not exist", 127);
    fails(|_| session("a", &[]), "no entrypoint and no command", 127);
    fails(|_| session("a", &["/usr"]), "permission denied", 126);
    fails(|slot| session("a", &[&file(slot, "#!/bin/sh\n", 0o644)]), "permission denied", 126);
    fails(|slot| session("a", &[&file(slot, "text\n", 0o755)]), "exec format error", 126);
    fails(|slot| session("a", &[&file(slot, "#!/no/such\n", 0o755)]), "interpreter", 127);
    let nowhere = |_: &Slot| {
        let mut session = shell("a", "true");
        session.working_dir = Some("/no/such".into());
        session
    };
    fails(nowhere, "working directory \"/no/such\"", 126);
}

#[test]
fn one_session_ever() {
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let pid = wire.claim(shell("a", "exec sleep 60"));
    assert_eq!(wire.claim(shell("a", "exit 1")), pid, "the same answer for the same id");
    wire.say(&ToInit::Session(Box::new(shell("b", "exit 1"))));
    let id = |id: &str| id.parse::<BackendId>().unwrap();
    assert_eq!(wire.hear(), FromInit::Refused { backend: id("b"), taken_by: id("a") });
}

/// What would run and was never mentioned would be started again elsewhere.
#[test]
fn nothing_begins_unless_the_drone_was_told() {
    for mode in [InitMode::Supervise, InitMode::Exec] {
        let mut slot = Slot::new(&[]);
        let (mut wire, first) = slot.accept();
        assert!(first.writes_ahead);
        let marker = slot.path("ran");
        let given = || Session { mode, ..shell("a", &format!(": > {}; exec sleep 60", marker.display())) };
        // The line ends right behind the session, as when the agent dies.
        kill(slot.pid(), libc::SIGSTOP);
        wire.say(&ToInit::Session(Box::new(given())));
        drop(wire);
        kill(slot.pid(), libc::SIGCONT);
        let (mut wire, again) = slot.accept();
        assert_eq!((&again.nonce, &again.session), (&first.nonce, &None), "it was never received");
        assert!(!marker.exists() && slot.is_running());
        wire.claim(given());
        eventually("the application", || marker.exists().then_some(()));
    }
}

#[test]
fn nothing_begins_while_the_drone_does_not_read() {
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let marker = slot.path("ran");
    let session = || shell("a", &format!(": > {}; exec sleep 60", marker.display()));
    // More answers than the socket holds, and fewer than make init give up the line.
    wire.say_raw(&b"{\"type\":\"ping\"}\n".repeat(10_000));
    wire.say(&ToInit::Session(Box::new(session())));
    let (mut next, hello) = slot.accept();
    assert_eq!(hello.session, None);
    assert!(!marker.exists());
    next.claim(session());
    eventually("the application", || marker.exists().then_some(()));
}

#[test]
fn in_exec_mode_it_becomes_the_application() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let mut session =
        session("a", &["python3", "-c", "import os; print(os.getpid()); os.kill(os.getpid(), 15)"]);
    session.mode = InitMode::Exec;
    let own = slot.pid();
    assert_eq!(wire.claim(session), own);
    assert!(wire.is_closed(), "the application does not inherit the line");
    assert_eq!(slot.output(), format!("{own}\n"));
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&slot.status()),
        Some(15),
        "no signal is blocked"
    );
}

#[test]
fn an_exec_that_fails_is_said_too() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let mut session = session("a", &["/no/such"]);
    session.mode = InitMode::Exec;
    wire.claim(session);
    assert!(matches!(wire.hear(), FromInit::StartFailed { .. }));
    assert_eq!(slot.status().code(), Some(127));
}

#[test]
fn the_application_is_an_ordinary_process_of_its_own() {
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let pid = wire.claim(shell("a", "exec sleep 60"));
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let leader = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap();
    assert_eq!(leader, pid.to_string(), "it leads a process session of its own");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for name in ["SigBlk:", "SigIgn:"] {
        let mask = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(mask.trim(), "0".repeat(16), "{name}");
    }
    // The runner of the tests may hand down descriptors of its own; those of init are marked.
    let marked = |entry: std::io::Result<std::fs::DirEntry>| {
        let number = entry.unwrap().file_name().into_string().unwrap();
        let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{number}", slot.pid())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        i32::from_str_radix(flags, 8).unwrap() & libc::O_CLOEXEC != 0
    };
    let of_init: Vec<_> =
        std::fs::read_dir(format!("/proc/{}/fd", slot.pid())).unwrap().map(marked).collect();
    let inherited = of_init.iter().filter(|marked| !**marked).count();
    assert!(of_init.len() > inherited, "the line and the signals, at least");
    // Its loader has a library open at first.
    eventually("none of init's descriptors in the application", || {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        (descriptors == inherited).then_some(())
    });
}

/// What a process that is not dumpable has in `/proc` belongs to root, whoever runs it (proc(5)).
#[test]
fn init_is_closed_to_inspection_and_the_application_is_not() {
    let mut slot = Slot::unprivileged(&[]);
    let (mut wire, _) = slot.accept();
    let script = "stat -c %u /proc/$PPID/environ /proc/self/environ; id -u; cat /proc/$PPID/environ";
    wire.claim(shell("a", script));
    assert!(matches!(wire.hear(), FromInit::Exited { code: Some(1), .. }), "cat is refused");
    let output = slot.output();
    let users: Vec<_> = output.lines().collect();
    assert_eq!(users[0], "0");
    assert_eq!(users[1], users[2]);
    assert_ne!(users[1], "0", "run as root, the test must have started it as another user");
}
