//! Starts the executable, listens as the drone would, and talks to it line by line, every wait with a deadline.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jetway_protocol::init::{FromInit, Hello, Session, ToInit};
pub use jetway_testkit::soon_blocking as eventually;

pub const DEADLINE: Duration = Duration::from_secs(20);

/// One slot: its directory with the drone's socket, and the init in it.
pub struct Slot {
    directory: PathBuf,
    listener: UnixListener,
    child: Child,
}

impl Slot {
    pub fn new(command: &[&str]) -> Self {
        Self::with_env(command, &[])
    }

    pub fn with_env(command: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start(command, |init| {
            init.envs(env.iter().copied());
        })
    }

    /// As uid 65534 where the test is root, else as the test's own user.
    pub fn unprivileged(command: &[&str]) -> Self {
        Self::start(command, |init| {
            // SAFETY: takes nothing.
            if unsafe { libc::geteuid() } == 0 {
                init.uid(65534).gid(65534);
            }
        })
    }

    fn start(command: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("jetway-init-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let socket = directory.join("drone.sock");
        let listener = listen(&socket);
        // A copy, because another user may not reach the directory in which it was built.
        let executable = directory.join("jetway-init");
        std::fs::copy(env!("CARGO_BIN_EXE_jetway-init"), &executable).unwrap();
        let mut init = Command::new(executable);
        std::fs::create_dir(directory.join("lease")).unwrap();
        init.arg("--socket").arg(&socket).arg("--lease").arg(directory.join("lease"));
        init.arg("--").args(command);
        init.stdin(Stdio::null()).stdout(Stdio::piped());
        change(&mut init);
        let child = eventually("an executable that no fork holds open", || init.spawn().ok());
        Self { directory, listener, child }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The next connection, after its hello.
    pub fn accept(&self) -> (Wire, Hello) {
        let stream = eventually("a connection", || self.listener.accept().ok()).0;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut wire = Wire { reader: BufReader::new(stream) };
        match wire.hear() {
            FromInit::Hello(hello) => (wire, hello),
            other => panic!("the first line is {other:?}"),
        }
    }

    /// The drone goes away; its socket too.
    pub fn hang_up(&mut self) {
        self.take_away();
        self.listener = listen(&self.path("drone.sock"));
    }

    /// Nobody is to come any more.
    pub fn take_away(&mut self) {
        let _it_may_be_gone = std::fs::remove_file(self.path("drone.sock"));
    }

    pub fn status(&mut self) -> ExitStatus {
        eventually("init's exit", || self.child.try_wait().unwrap())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// All that the application wrote. Returns when every process that holds its output has gone.
    pub fn output(&mut self) -> String {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Asked first, so that init takes its application along; killed if a test left it stuck.
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let socket = self.path("drone.sock");
            drop(std::fs::remove_file(&socket));
            self.listener = listen(&socket);
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end && self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if let Ok((mut stream, _)) = self.listener.accept() {
                    let _ = stream.write_all(b"{\"type\":\"stop\",\"signal\":9,\"grace_ms\":0}\n");
                }
                kill(self.pid(), 15);
                pause();
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn listen(socket: &PathBuf) -> UnixListener {
    let listener = UnixListener::bind(socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o777)).unwrap();
    listener
}

/// The drone's end of one connection.
pub struct Wire {
    reader: BufReader<UnixStream>,
}

impl Wire {
    pub fn hear(&mut self) -> FromInit {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub fn say(&mut self, message: &ToInit) {
        let mut line = serde_json::to_vec(message).unwrap();
        line.push(b'\n');
        self.say_raw(&line);
    }

    pub fn say_raw(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    /// Gives the session, and hears that it is taken: before anything is executed.
    pub fn give(&mut self, session: Session) {
        let taken = FromInit::Taken { backend: session.backend.clone() };
        self.say(&ToInit::Session(Box::new(session)));
        assert_eq!(self.hear(), taken);
    }

    /// Claims, also what was claimed before, and gives the application's pid.
    pub fn claim(&mut self, session: Session) -> i32 {
        let backend = session.backend.clone();
        let taken = FromInit::Taken { backend: backend.clone() };
        self.say(&ToInit::Session(Box::new(session)));
        let mut answer = self.hear();
        if answer == taken {
            answer = self.hear();
        }
        match answer {
            FromInit::Started { backend: started, pid } if started == backend => pid,
            other => panic!("the claim's answer is {other:?}"),
        }
    }

    pub fn stop(&mut self, signal: i32, grace_ms: u64) {
        self.say(&ToInit::Stop { signal, grace_ms });
    }

    /// True once init has closed this connection.
    pub fn is_closed(&mut self) -> bool {
        !matches!(self.reader.fill_buf(), Ok(bytes) if !bytes.is_empty())
    }
}

pub fn session(id: &str, argv: &[&str]) -> Session {
    let argv = argv.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    serde_json::from_value(serde_json::json!({
        "backend": id, "fencing_token": 7, "env": {}, "argv": argv, "port": null,
    }))
    .unwrap()
}

pub fn shell(id: &str, script: &str) -> Session {
    session(id, &["sh", "-c", script])
}

/// Between two looks at a condition.
pub fn pause() {
    let (mut one, _other) = UnixStream::pair().unwrap();
    one.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    let _ = one.read(&mut [0]);
}

pub fn kill(pid: i32, signal: i32) {
    // SAFETY: takes only numbers.
    unsafe { libc::kill(pid, signal) };
}
