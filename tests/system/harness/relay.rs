//! A TCP address before the socket of a Postgres: a test may move it to another one, which ends every connection through it,
//! and it counts the statements that pass. It knows no more of the protocol than where a message begins.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jetway_service::lifecycle::Lifecycle;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

pub struct Relay {
    pub port: u16,
    target: watch::Sender<Option<PathBuf>>,
    stalls: watch::Sender<bool>,
    statements: Arc<AtomicU64>,
    lifecycle: Lifecycle,
}

impl Relay {
    /// `socket`: the file of a Postgres' Unix socket.
    pub async fn start(socket: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (target, seen) = watch::channel(Some(socket.to_owned()));
        let (stalls, stalled) = watch::channel(false);
        let (statements, lifecycle) = (Arc::new(AtomicU64::new(0)), Lifecycle::new());
        let (count, tasks) = (statements.clone(), lifecycle.clone());
        lifecycle.spawn_until_stopped(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn_until_stopped(pass(stream, seen.clone(), stalled.clone(), count.clone()));
            }
        });
        Ok(Self { port, target, stalls, statements, lifecycle })
    }

    /// Without TLS, so that the messages can be told apart.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://jetway@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// From now on to another one, or to nobody.
    pub fn move_to(&self, socket: Option<&Path>) {
        self.target.send_replace(socket.map(Path::to_owned));
    }

    /// While it stalls, connections are made and stay open, and not a byte of what is asked arrives.
    pub fn stall(&self, stalls: bool) {
        self.stalls.send_replace(stalls);
    }

    /// Executions and simple queries until now: `BEGIN` and `COMMIT` are among them.
    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.lifecycle.token().cancel();
    }
}

async fn pass(
    client: TcpStream,
    mut target: watch::Receiver<Option<PathBuf>>,
    mut stalls: watch::Receiver<bool>,
    statements: Arc<AtomicU64>,
) {
    let Some(socket) = target.borrow_and_update().clone() else { return };
    let Ok(server) = UnixStream::connect(&socket).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async {
        let (mut buffer, mut messages) = (vec![0; 16 * 1024], Messages::default());
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            if stalls.wait_for(|stalls| !stalls).await.is_err() {
                return;
            }
            statements.fetch_add(messages.statements_in(&buffer[..read]), Ordering::Relaxed);
            if to_server.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ended = copy(&mut from_server, &mut to_client) => {}
        _moved = target.changed() => {}
    }
}

/// Where the next message begins (PostgreSQL, 55.7 Message Formats): a letter and a length; the first has no letter.
#[derive(Default)]
struct Messages {
    head: Vec<u8>,
    rest: usize,
    is_open: bool,
}

impl Messages {
    fn statements_in(&mut self, mut bytes: &[u8]) -> u64 {
        let mut statements = 0;
        while !bytes.is_empty() {
            let skipped = self.rest.min(bytes.len());
            (self.rest, bytes) = (self.rest - skipped, &bytes[skipped..]);
            let letter = usize::from(self.is_open);
            let Some((first, after)) = bytes.split_first() else { break };
            (self.head, bytes) = ([self.head.as_slice(), &[*first]].concat(), after);
            if self.head.len() == 4 + letter {
                let length =
                    self.head[letter..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                statements += u64::from(letter == 1 && matches!(self.head[0], b'E' | b'Q'));
                (self.rest, self.is_open) = (length.saturating_sub(4), true);
                self.head.clear();
            }
        }
        statements
    }
}

#[test]
fn statements_are_counted_however_the_bytes_are_cut() {
    let startup = [0, 0, 0, 8, 0, 3, 0, 0];
    let execute = [b'E', 0, 0, 0, 9, b'E', 0, 0, 0, 0];
    let sync = [b'S', 0, 0, 0, 4];
    let query = [b'Q', 0, 0, 0, 6, b'Q', 0];
    let all = [&startup[..], &execute, &sync, &query, &execute].concat();
    for size in 1..all.len() {
        let mut messages = Messages::default();
        let counted: u64 = all.chunks(size).map(|chunk| messages.statements_in(chunk)).sum();
        assert_eq!(counted, 3, "in pieces of {size}");
    }
}
