//! The line to the drone: one Unix stream socket, one JSON object a line, redialled for as long as init lives.
//! What is said while it is down is dropped, because the next hello tells all of it. What the messages mean is
//! `state`'s business.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jetway_protocol::init::{FromInit, LINE_BYTES_MAX, ToInit};

use crate::kernel;

/// First and longest pause before dialling again.
const REDIAL_MIN: Duration = Duration::from_millis(5);
const REDIAL_MAX: Duration = Duration::from_millis(250);
/// A connection that lived so long was a good one: the pauses begin anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(1);
/// The socket is never away for a moment: without one for so long, nobody will come.
const GONE_AFTER: Duration = Duration::from_secs(2);
/// Bytes that wait for a drone that does not read; more, and the line counts as broken. Init says little.
const OUTGOING_BYTES_MAX: usize = 256 * 1024;
const READ_BYTES: usize = 16 * 1024;

/// What makes a connection useless.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("a line is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    #[error("a line is no message")]
    NoMessage,
}

pub struct Line {
    path: PathBuf,
    connection: Option<Connection>,
    /// Dials that did not lead to a good connection.
    attempts: u32,
    next_dial: Instant,
    /// Since when there is no socket to dial.
    without_socket: Option<Instant>,
}

struct Connection {
    stream: UnixStream,
    since: Instant,
    incoming: Incoming,
    outgoing: Vec<u8>,
}

impl Line {
    pub fn new(path: PathBuf, now: Instant) -> Self {
        Self { path, connection: None, attempts: 0, next_dial: now, without_socket: None }
    }

    /// What to wait for on the socket, if there is one.
    pub fn interest(&self) -> Option<(RawFd, i16)> {
        let connection = self.connection.as_ref()?;
        let write = if connection.outgoing.is_empty() { 0 } else { libc::POLLOUT };
        Some((connection.stream.as_raw_fd(), libc::POLLIN | write))
    }

    /// When to dial; `None` while connected.
    pub fn dial_at(&self) -> Option<Instant> {
        self.connection.is_none().then_some(self.next_dial)
    }

    /// The drone has taken the slot away.
    pub fn is_gone(&self, now: Instant) -> bool {
        self.without_socket.is_some_and(|since| now.saturating_duration_since(since) >= GONE_AFTER)
    }

    /// Dials if it is time to, and says hello. True if there is a new connection.
    pub fn dial(&mut self, now: Instant, hello: impl FnOnce() -> FromInit) -> bool {
        if self.connection.is_some() || now < self.next_dial {
            return false;
        }
        let stream = match kernel::dial(&self.path) {
            Ok(stream) => stream,
            Err(error) => {
                let is_gone = error.kind() == io::ErrorKind::NotFound;
                self.without_socket = is_gone.then(|| self.without_socket.unwrap_or(now));
                self.redial_later(now);
                return false;
            }
        };
        self.without_socket = None;
        let (incoming, outgoing) = (Incoming::default(), Vec::new());
        self.connection = Some(Connection { stream, since: now, incoming, outgoing });
        self.say(&hello(), now);
        true
    }

    /// Writes at once what the socket takes; the rest when it is writable.
    pub fn say(&mut self, message: &FromInit, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        // A message of strings and numbers always is JSON.
        let Ok(text) = serde_json::to_vec(message) else { return };
        connection.outgoing.extend(text);
        connection.outgoing.push(b'\n');
        self.write(now);
    }

    /// True once the socket has accepted every byte of it. Otherwise the line is closed: nothing of
    /// the message may be written later.
    pub fn say_for_certain(&mut self, message: &FromInit, limit: Duration) -> bool {
        self.say(message, Instant::now());
        self.flush(limit);
        let is_said = self.connection.as_ref().is_some_and(|connection| connection.outgoing.is_empty());
        if !is_said && self.connection.is_some() {
            self.close(Instant::now());
        }
        is_said
    }

    pub fn write(&mut self, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        if connection.write().is_err() || connection.outgoing.len() > OUTGOING_BYTES_MAX {
            self.close(now);
        }
    }

    /// Reads once, and gives the whole messages that came. A line that is broken or talks nonsense is closed, after
    /// what was said before.
    pub fn read(&mut self, now: Instant) -> Vec<ToInit> {
        let Some(connection) = &mut self.connection else { return Vec::new() };
        let mut messages = Vec::new();
        let mut chunk = [0u8; READ_BYTES];
        let usable = match connection.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(length) => connection.incoming.take(&chunk[..length], &mut messages).is_ok(),
            Err(error) => is_passing(&error),
        };
        if !usable {
            self.close(now);
        }
        messages
    }

    /// Waits until everything said is written, at most so long; not at all while the line is down.
    pub fn flush(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let now = Instant::now();
            self.write(now);
            let Some(connection) = self.connection.as_ref().filter(|c| !c.outgoing.is_empty()) else {
                return;
            };
            if now >= end {
                return;
            }
            let fd = connection.stream.as_raw_fd();
            let mut writable = [libc::pollfd { fd, events: libc::POLLOUT, revents: 0 }];
            if kernel::wait(&mut writable, Some(end - now)).is_err() {
                return;
            }
        }
    }

    fn close(&mut self, now: Instant) {
        if self.connection.take().is_some_and(|connection| now - connection.since >= GOOD_CONNECTION) {
            self.attempts = 0;
        }
        self.redial_later(now);
    }

    fn redial_later(&mut self, now: Instant) {
        let chance = kernel::random_bytes::<1>().map_or(0, |[byte]| byte);
        self.next_dial = now + pause(self.attempts, chance);
        self.attempts = self.attempts.saturating_add(1);
    }
}

impl Connection {
    fn write(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => drop(self.outgoing.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Doubles from the shortest to the longest pause, less up to a quarter by chance, so that a drone that comes back
/// is not dialled by all its containers in one instant.
fn pause(attempts: u32, chance: u8) -> Duration {
    let longest = REDIAL_MIN.saturating_mul(1 << attempts.min(16)).min(REDIAL_MAX);
    longest - longest / 4 * u32::from(chance) / 255
}

/// Bytes into messages.
#[derive(Default)]
struct Incoming {
    unfinished: Vec<u8>,
}

impl Incoming {
    fn take(&mut self, mut bytes: &[u8], messages: &mut Vec<ToInit>) -> Result<(), LineError> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end])?;
            bytes = &bytes[end + 1..];
            // Taken, not cleared: one large session must not hold its memory for the container's life.
            messages.extend(message(&std::mem::take(&mut self.unfinished))?);
        }
        self.keep(bytes)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), LineError> {
        if self.unfinished.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(LineError::TooLong);
        }
        self.unfinished.extend_from_slice(bytes);
        Ok(())
    }
}

/// A message of a type that this version does not know is passed over: a newer drone may say more.
fn message(line: &[u8]) -> Result<Option<ToInit>, LineError> {
    const KNOWN: [&str; 5] = ["session", "ahead", "stop", "look_at_lease", "ping"];
    if let Ok(message) = serde_json::from_slice(line) {
        return Ok(Some(message));
    }
    let object: serde_json::Value = serde_json::from_slice(line).map_err(|_| LineError::NoMessage)?;
    match object.get("type").and_then(|name| name.as_str()) {
        Some(name) if !KNOWN.contains(&name) => Ok(None),
        _ => Err(LineError::NoMessage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(chunks: &[&[u8]]) -> Result<usize, LineError> {
        let (mut incoming, mut messages) = (Incoming::default(), Vec::new());
        for chunk in chunks {
            incoming.take(chunk, &mut messages)?;
        }
        Ok(messages.len())
    }

    #[test]
    fn lines_are_cut_wherever_the_bytes_are() {
        let ping: &[u8] = b"{\"type\":\"ping\"}\n";
        assert_eq!(taken(&[ping, ping]).unwrap(), 2);
        assert_eq!(taken(&[&ping[..5], &ping[5..], &ping[..9]]).unwrap(), 1);
        assert_eq!(taken(&[&[ping, ping, b"{"].concat()]).unwrap(), 2);
    }

    #[test]
    fn nonsense_and_endless_lines_are_errors_and_the_unknown_is_passed_over() {
        for nonsense in [&b"\n"[..], b"hello\n", b"[]\n", b"{}\n", b"\xff\n", b"{\"type\":\"stop\"}\n"] {
            assert!(matches!(taken(&[nonsense]), Err(LineError::NoMessage)), "{nonsense:?}");
        }
        assert_eq!(
            taken(&[b"{\"type\":\"of_tomorrow\",\"x\":1}\n{\"type\":\"ping\",\"y\":2}\n"]).unwrap(),
            1
        );
        let long = vec![b' '; LINE_BYTES_MAX / 2 + 1];
        assert!(matches!(taken(&[&long, &long]), Err(LineError::TooLong)));
    }

    #[test]
    fn pauses_grow_to_a_quarter_of_a_second_and_never_beyond() {
        assert_eq!(pause(0, 0), Duration::from_millis(5));
        assert_eq!(pause(3, 0), Duration::from_millis(40));
        for attempts in 6..40 {
            assert_eq!(pause(attempts, 0), Duration::from_millis(250));
            assert!(pause(attempts, 255) >= REDIAL_MAX * 3 / 4);
        }
    }

    proptest::proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(cuts in proptest::collection::vec(0usize..200, 0..8)) {
            let mut messages: Vec<u8> = b"{\"type\":\"ping\"}\n".repeat(9);
            messages.extend(b"{\"type\":\"stop\",\"signal\":15,\"grace_ms\":5}\n");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(messages.len())).collect();
            cuts.extend([0, messages.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|ends| &messages[ends[0]..ends[1]]).collect();
            proptest::prop_assert_eq!(taken(&chunks).ok(), Some(10));
        }
    }
}
