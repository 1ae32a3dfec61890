//! The drone's end of the line to one init: a Unix socket in a directory of the slot's own, which the container has
//! mounted. Not its business: what is said, and which slots there are.
//!
//! The application can reach the socket too. So a connection counts only when it begins with a `Hello` whose nonce is
//! the pinned one: the first that was ever heard, while init is parked and nothing else runs in the container, or the
//! journalled one after the agent's restart. The newest such connection is the line.
//!
//! The directory, not the socket, is what is mounted: a new socket in it is seen by the containers that run. Where
//! the run directory itself did not survive, a running container keeps the old one and its init cannot come back on
//! the line; the new directory serves only new containers.

use std::collections::VecDeque;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use futures_util::future::{AbortHandle, Aborted, BoxFuture, abortable};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use jetway_protocol::init::{FromInit, Hello, LINE_BYTES_MAX, ToInit};
use jetway_service::lifecycle::Lifecycle;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, LinesCodec};

use super::{InitLine, LineEvent};

/// The socket's name in the slot's directory.
pub const SOCKET: &str = "drone.sock";
/// The kernel's limit on a socket's path, without the closing zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Messages that wait while init is not on the line.
const COMMANDS_MAX: usize = 16;
const EVENTS_MAX: usize = 64;
/// Connections that have not said who they are. One more, and the oldest goes: init says it at once.
const WAITING_MAX: usize = 4;
const HELLO_DEADLINE: Duration = Duration::from_secs(2);
const HELLO_BYTES_MAX: usize = 64 * 1024;
const NONCE_BYTES_MAX: usize = 128;
/// An init that does not read for this long is not on the line.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// After a failed accept (no file descriptors): a pause instead of a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the socket in `directory`, in place of one that an earlier process left. `nonce`: the init that is expected.
pub fn open(lifecycle: &Lifecycle, directory: &Path, nonce: Option<String>) -> io::Result<InitLine> {
    let listener = listen(directory)?;
    let (events, events_out) = mpsc::channel(EVENTS_MAX);
    let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
    let line = Line {
        listener,
        events,
        commands,
        nonce,
        connection: None,
        waiting: FuturesUnordered::new(),
        oldest: VecDeque::new(),
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
    writer: OwnedWriteHalf,
}

type Introduction = Result<Option<Introduced>, Aborted>;
type Introduced = Box<(Hello, Connection)>;

struct Line {
    listener: UnixListener,
    events: mpsc::Sender<LineEvent>,
    commands: mpsc::Receiver<ToInit>,
    nonce: Option<String>,
    connection: Option<Connection>,
    waiting: FuturesUnordered<BoxFuture<'static, Introduction>>,
    oldest: VecDeque<AbortHandle>,
    /// Taken from the queue, and not written when its connection broke.
    unsent: Option<ToInit>,
    /// Events for a receiver that is slow. Nothing more is read from init while any are here.
    outbox: VecDeque<LineEvent>,
}

enum Step {
    Closed,
    Accepted(io::Result<UnixStream>),
    Introduced(Option<Introduced>),
    Heard(Option<String>),
    Told(Option<ToInit>),
    Room,
}

impl Line {
    /// Until the other half is dropped.
    async fn run(mut self) {
        loop {
            match self.step().await {
                Step::Closed => return,
                Step::Accepted(Ok(stream)) => self.admit(stream),
                Step::Accepted(Err(error)) => {
                    tracing::warn!(%error, "a slot's socket cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Step::Introduced(Some(introduced)) => {
                    let (hello, connection) = *introduced;
                    self.connect(hello, connection).await;
                }
                Step::Introduced(None) => {}
                Step::Heard(line) => self.hear(line),
                Step::Told(Some(command)) => {
                    self.unsent = Some(command);
                    self.send().await;
                }
                // Nobody will send any more; there may still be somebody who listens.
                Step::Told(None) => self.commands.close(),
                Step::Room => {}
            }
        }
    }

    async fn step(&mut self) -> Step {
        let is_quiet = self.outbox.is_empty();
        let may_send = self.connection.is_some() && self.unsent.is_none() && !self.commands.is_closed();
        tokio::select! {
            () = self.events.closed() => Step::Closed,
            permit = self.events.reserve(), if !is_quiet => {
                if let (Ok(permit), Some(event)) = (permit, self.outbox.pop_front()) {
                    permit.send(event);
                }
                Step::Room
            }
            accepted = self.listener.accept() => Step::Accepted(accepted.map(|(stream, _)| stream)),
            Some(outcome) = self.waiting.next(), if is_quiet => Step::Introduced(outcome.unwrap_or(None)),
            line = heard(&mut self.connection), if is_quiet => Step::Heard(line),
            command = self.commands.recv(), if may_send => Step::Told(command),
        }
    }

    fn admit(&mut self, stream: UnixStream) {
        let (introduction, handle) = abortable(introduce(stream));
        self.waiting.push(introduction.boxed());
        self.oldest.push_back(handle);
        while self.oldest.len() > WAITING_MAX {
            if let Some(oldest) = self.oldest.pop_front() {
                oldest.abort();
            }
        }
    }

    async fn connect(&mut self, hello: Hello, connection: Connection) {
        let is_sound = !hello.nonce.is_empty() && hello.nonce.len() <= NONCE_BYTES_MAX;
        if !is_sound || self.nonce.as_ref().is_some_and(|pinned| *pinned != hello.nonce) {
            tracing::warn!("a connection on a slot's socket is not its init's");
            return;
        }
        self.nonce = Some(hello.nonce.clone());
        if self.connection.replace(connection).is_some() {
            self.outbox.push_back(LineEvent::Disconnected);
        }
        self.outbox.push_back(LineEvent::Connected(hello));
        self.send().await;
    }

    fn hear(&mut self, line: Option<String>) {
        let message = line.as_deref().map(understand);
        match message {
            Some(Heard::Message(message)) => self.outbox.push_back(LineEvent::Message(message)),
            Some(Heard::Newer) => tracing::debug!("init says what this drone does not know"),
            Some(Heard::Garbage) | None => self.disconnect(),
        }
    }

    /// Writes the message that is to be sent, if there is one and a connection; else it waits for the next.
    async fn send(&mut self) {
        let (Some(connection), Some(command)) = (&mut self.connection, &self.unsent) else { return };
        let Ok(mut line) = serde_json::to_vec(command) else {
            self.unsent = None;
            return;
        };
        line.push(b'\n');
        match tokio::time::timeout(WRITE_DEADLINE, connection.writer.write_all(&line)).await {
            Ok(Ok(())) => self.unsent = None,
            Ok(Err(_)) | Err(_) => self.disconnect(),
        }
    }

    fn disconnect(&mut self) {
        if self.connection.take().is_some() {
            self.outbox.push_back(LineEvent::Disconnected);
        }
    }
}

/// The next line; `None` when the connection is over. Never, where there is none.
async fn heard(connection: &mut Option<Connection>) -> Option<String> {
    match connection {
        Some(connection) => connection.lines.next().await.and_then(Result::ok),
        None => std::future::pending().await,
    }
}

/// `None`: whoever it is did not say a `Hello` in time.
async fn introduce(stream: UnixStream) -> Option<Introduced> {
    let (reader, writer) = stream.into_split();
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(HELLO_BYTES_MAX));
    let first = tokio::time::timeout(HELLO_DEADLINE, lines.next()).await.ok()??.ok()?;
    let Ok(FromInit::Hello(hello)) = serde_json::from_str(&first) else { return None };
    let lines = lines.map_decoder(|_| LinesCodec::new_with_max_length(LINE_BYTES_MAX));
    Some(Box::new((hello, Connection { lines, writer })))
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
