//! The drone's end of the line to one init: a Unix socket in a directory of the slot's own, which the container has
//! mounted. Not its business: what is said, and which slots there are.
//!
//! The application can reach the socket too. So a connection counts only when it begins with a
//! `Hello` whose nonce is the pinned one: the first that was ever heard, while init is parked and
//! nothing else runs in the container, or the journalled one after the agent's restart. The newest
//! such connection is the line, once the one before is read to its end: whether a session was begun
//! is told by what init has said last.
//!
//! The directory, not the socket, is what is mounted: a new socket in it is seen by the containers that run. Where
//! the run directory itself did not survive, a running container keeps the old one and its init cannot come back on
//! the line; the new directory serves only new containers.

mod door;

use std::collections::VecDeque;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use jetway_protocol::init::{FromInit, SOCKET_PATH_BYTES_MAX, ToInit};
use jetway_service::lifecycle::Lifecycle;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use self::door::{Door, Introduced};
use super::{InitLine, LineEvent};

/// The socket's name in the slot's directory.
pub const SOCKET: &str = "drone.sock";
/// Init redials within 250 ms. One that is silent for this long, while its container runs and is
/// not paused, has lost it: the container is killed, and no answer about it is waited for.
pub const INIT_SILENCE_MAX: Duration = Duration::from_secs(10);
/// Messages that wait while init is not on the line.
const COMMANDS_MAX: usize = 16;
const EVENTS_MAX: usize = 64;
const NONCE_BYTES_MAX: usize = 128;
/// An init that does not read for this long is not on the line.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// For the rest of a connection once init has made a new one. Init closes a connection before it
/// dials again, so the end is there already.
const REST_DEADLINE: Duration = Duration::from_secs(1);

/// Opens the socket in `directory`, in place of one that an earlier process left. `nonce`: the init that is expected.
pub fn open(lifecycle: &Lifecycle, directory: &Path, nonce: Option<String>) -> io::Result<InitLine> {
    let listener = listen(directory)?;
    let (events, events_out) = mpsc::channel(EVENTS_MAX);
    let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
    let line = Line {
        door: Door::new(listener),
        events,
        commands,
        nonce,
        warned: false,
        connection: None,
        successor: None,
        unsent: None,
        outbox: VecDeque::new(),
    };
    lifecycle.spawn_until_stopped(line.run());
    Ok(InitLine { events: events_out, commands: commands_in })
}

/// The slot's directory, reachable by every user of a container.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    std::fs::set_permissions(directory, Permissions::from_mode(0o755))
}

fn listen(directory: &Path) -> io::Result<UnixListener> {
    make_directory(directory)?;
    let path = directory.join(SOCKET);
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} has {length} bytes, a socket's path only {SOCKET_PATH_BYTES_MAX}", path.display()),
        ));
    }
    // Bound beside its place and renamed into it: there is no moment without a socket, and a stale one is replaced.
    let beside = directory.join("new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&beside)?;
    // Any uid may run in the container. Who connects has to prove itself.
    std::fs::set_permissions(&beside, Permissions::from_mode(0o666))?;
    std::fs::rename(&beside, &path)?;
    Ok(listener)
}

struct Connection {
    lines: FramedRead<OwnedReadHalf, LinesCodec>,
    /// `None` after a write that failed, and when init has made a new connection: then it is only
    /// read, to its end.
    writer: Option<OwnedWriteHalf>,
}

struct Line {
    door: Door,
    events: mpsc::Sender<LineEvent>,
    commands: mpsc::Receiver<ToInit>,
    nonce: Option<String>,
    /// Somebody else than init was on the socket, and the log says so.
    warned: bool,
    connection: Option<Connection>,
    /// Init's new connection, until the rest of the one before is read; no longer than the
    /// deadline.
    successor: Option<(Introduced, Instant)>,
    /// Taken from the queue, and not written when its connection broke.
    unsent: Option<ToInit>,
    /// Events for a receiver that is slow. Nothing more is read from init while any are here.
    outbox: VecDeque<LineEvent>,
}

enum Step {
    Closed,
    Room,
    Told(Option<ToInit>),
    Heard(Option<Result<String, LinesCodecError>>),
    RestIsLate,
    Introduced(Introduced),
}

impl Line {
    /// Until the other half is dropped.
    async fn run(mut self) {
        loop {
            if self.may_write() {
                self.send().await;
            }
            match self.step().await {
                Step::Closed => return,
                Step::Room => {}
                Step::Told(Some(command)) => self.unsent = Some(command),
                // Nobody will send any more; there may still be somebody who listens.
                Step::Told(None) => self.commands.close(),
                Step::Heard(line) => self.hear(line),
                Step::RestIsLate => self.over(false),
                Step::Introduced(introduced) => self.admit(introduced),
            }
        }
    }

    /// In this order: however many connections are made to the socket, the line itself comes first.
    async fn step(&mut self) -> Step {
        let is_quiet = self.outbox.is_empty();
        let may_send = self.may_write() && self.unsent.is_none() && !self.commands.is_closed();
        let rest_until = self.successor.as_ref().map(|(_, until)| *until);
        tokio::select! {
            biased;
            () = self.events.closed() => Step::Closed,
            permit = self.events.reserve(), if !is_quiet => {
                if let (Ok(permit), Some(event)) = (permit, self.outbox.pop_front()) {
                    permit.send(event);
                }
                Step::Room
            }
            command = self.commands.recv(), if may_send => Step::Told(command),
            line = heard(&mut self.connection), if is_quiet => Step::Heard(line),
            () = at(rest_until), if is_quiet => Step::RestIsLate,
            introduced = self.door.next(), if is_quiet && rest_until.is_none() => Step::Introduced(introduced),
        }
    }

    /// Not before the connection was announced: a session's backend must know of every line on
    /// which it may have been taken.
    fn may_write(&self) -> bool {
        let has_writer = self.connection.as_ref().is_some_and(|connection| connection.writer.is_some());
        has_writer && !self.outbox.iter().any(|event| matches!(event, LineEvent::Connected(_)))
    }

    fn admit(&mut self, introduced: Introduced) {
        let (hello, _) = &*introduced;
        let is_sound = !hello.nonce.is_empty() && hello.nonce.len() <= NONCE_BYTES_MAX;
        if !is_sound || self.nonce.as_ref().is_some_and(|pinned| *pinned != hello.nonce) {
            if !std::mem::replace(&mut self.warned, true) {
                tracing::warn!("a connection on a slot's socket is not its init's");
            }
            return;
        }
        self.nonce = Some(hello.nonce.clone());
        match &mut self.connection {
            Some(before) => {
                before.writer = None;
                self.successor = Some((introduced, Instant::now() + REST_DEADLINE));
            }
            None => self.connect(introduced),
        }
    }

    fn connect(&mut self, introduced: Introduced) {
        let (hello, connection) = *introduced;
        self.connection = Some(connection);
        self.outbox.push_back(LineEvent::Connected(hello));
    }

    fn hear(&mut self, line: Option<Result<String, LinesCodecError>>) {
        match line {
            Some(Ok(line)) => match understand(&line) {
                Heard::Message(message) => self.outbox.push_back(LineEvent::Message(message)),
                Heard::Newer => tracing::debug!("init says what this drone does not know"),
                Heard::Garbage => self.over(false),
            },
            None => self.over(true),
            // Init ended with something unread. The kernel says so after the last byte of init's
            // own.
            Some(Err(LinesCodecError::Io(error))) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.over(true);
            }
            Some(Err(_)) => self.over(false),
        }
    }

    /// Writes the message that is to be sent, if there is one and a connection; else it waits for
    /// the next. Where that fails, what init has said is still read.
    async fn send(&mut self) {
        let (Some(connection), Some(command)) = (&mut self.connection, &self.unsent) else { return };
        let Some(writer) = &mut connection.writer else { return };
        let Ok(mut line) = serde_json::to_vec(command) else {
            self.unsent = None;
            return;
        };
        line.push(b'\n');
        match timeout(WRITE_DEADLINE, writer.write_all(&line)).await {
            Ok(Ok(())) => self.unsent = None,
            Ok(Err(_)) | Err(_) => {
                connection.writer = None;
                self.outbox.push_back(LineEvent::Disconnected { heard_all: false });
            }
        }
    }

    /// The connection is done with; the next one is the line, if init has made it.
    fn over(&mut self, heard_all: bool) {
        if self.connection.take().is_some() {
            self.outbox.push_back(LineEvent::Disconnected { heard_all });
        }
        if let Some((introduced, _)) = self.successor.take() {
            self.connect(introduced);
        }
    }
}

/// The next line; `None` at the connection's end. Never, where there is none.
async fn heard(connection: &mut Option<Connection>) -> Option<Result<String, LinesCodecError>> {
    match connection {
        Some(connection) => connection.lines.next().await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

enum Heard {
    Message(FromInit),
    /// A kind of message that a newer init knows.
    Newer,
    Garbage,
}

fn understand(line: &str) -> Heard {
    match serde_json::from_str(line) {
        Ok(FromInit::Hello(_)) => Heard::Newer,
        Ok(message) => Heard::Message(message),
        Err(_) => match serde_json::from_str::<serde_json::Value>(line) {
            Ok(value) if value["type"].is_string() => Heard::Newer,
            _ => Heard::Garbage,
        },
    }
}

#[cfg(test)]
#[path = "init_line_tests.rs"]
mod tests;
