//! A TCP address before the Unix socket of a Postgres. A test may move it to another one, which ends
//! every connection through it; stall it; or cut its connections, as a host that loses its power
//! does: the peer of each lives, reads, and answers nothing. It counts the statements that pass. It
//! knows no more of the protocol than where a message begins.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jetway_service::lifecycle::Lifecycle;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// Which connections are silent. One that was is for good.
#[derive(Debug, Clone)]
enum Cut {
    No,
    /// Those up to this number; a later one is served.
    Made(u64),
    /// The first one that sends these words, which still reach the server or do not.
    At {
        words: &'static str,
        arrive: bool,
    },
}

pub struct Relay {
    pub port: u16,
    target: watch::Sender<Option<PathBuf>>,
    stalls: watch::Sender<bool>,
    cut: watch::Sender<Cut>,
    made: Arc<AtomicU64>,
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
        let (cut, made) = (watch::Sender::new(Cut::No), Arc::new(AtomicU64::new(0)));
        let (statements, lifecycle) = (Arc::new(AtomicU64::new(0)), Lifecycle::new());
        let way = Way { target: seen, stalls: stalled, cut: cut.clone(), statements: statements.clone() };
        let (numbers, tasks) = (made.clone(), lifecycle.clone());
        lifecycle.spawn_until_stopped(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = numbers.fetch_add(1, Ordering::SeqCst) + 1;
                tasks.spawn_until_stopped(until_cut(way.clone().pass(stream), number, way.cut.subscribe()));
            }
        });
        Ok(Self { port, target, stalls, cut, made, statements, lifecycle })
    }

    /// Without TLS, so that the messages can be told apart.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://jetway@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// From now on to another one, or to none.
    pub fn move_to(&self, socket: Option<&Path>) {
        self.target.send_replace(socket.map(Path::to_owned));
    }

    /// While it stalls, connections are made and stay open, and not a byte from the client arrives.
    pub fn stall(&self, stalls: bool) {
        self.stalls.send_replace(stalls);
    }

    /// From now on nothing passes on the connections that there are, in either direction, and none
    /// of them ends: no FIN and no RST. Those that are made later are served.
    pub fn cut(&self) {
        self.cut.send_replace(Cut::Made(self.made.load(Ordering::SeqCst)));
    }

    /// The next connection that sends these words, and only that, is cut when they have reached the
    /// server.
    pub fn cut_after(&self, words: &'static str) {
        self.cut.send_replace(Cut::At { words, arrive: true });
    }

    /// The same, before they have.
    pub fn lose(&self, words: &'static str) {
        self.cut.send_replace(Cut::At { words, arrive: false });
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

/// The future of a connection that is cut is kept, with its sockets, and never driven again.
async fn until_cut(passing: impl Future<Output = ()>, number: u64, mut cuts: watch::Receiver<Cut>) {
    let mut passing = std::pin::pin!(passing);
    let is_cut = |cut: &Cut| matches!(cut, Cut::Made(last) if number <= *last);
    tokio::select! {
        biased;
        Ok(_) = async { cuts.wait_for(is_cut).await.map(drop) } => std::future::pending().await,
        () = &mut passing => {}
    }
}

/// The relay, as one of its connections sees it.
#[derive(Clone)]
struct Way {
    target: watch::Receiver<Option<PathBuf>>,
    stalls: watch::Receiver<bool>,
    cut: watch::Sender<Cut>,
    statements: Arc<AtomicU64>,
}

impl Way {
    async fn pass(self, client: TcpStream) {
        let Self { mut target, mut stalls, cut, statements } = self;
        let Some(socket) = target.borrow_and_update().clone() else { return };
        let Ok(server) = UnixStream::connect(&socket).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        // True: it falls silent.
        let there = async {
            let (mut buffer, mut messages) = (vec![0; 64 * 1024], Messages::default());
            while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                if stalls.wait_for(|stalls| !stalls).await.is_err() {
                    return false;
                }
                let bytes = &buffer[..read];
                let arrive = arrive_last(&cut, bytes);
                if arrive != Some(false) {
                    statements.fetch_add(messages.statements_in(bytes), Ordering::Relaxed);
                    if to_server.write_all(bytes).await.is_err() {
                        return false;
                    }
                }
                if arrive.is_some() {
                    return true;
                }
            }
            false
        };
        let is_silent = tokio::select! {
            is_silent = there => is_silent,
            _ended = copy(&mut from_server, &mut to_client) => false,
            _moved = target.changed() => false,
        };
        if is_silent {
            std::future::pending().await
        }
    }
}

/// Whether these bytes are the ones that end the connection, and if so, whether they arrive. It
/// happens once.
fn arrive_last(cut: &watch::Sender<Cut>, bytes: &[u8]) -> Option<bool> {
    let mut arrive_last = None;
    cut.send_if_modified(|cut| {
        if let Cut::At { words, arrive } = cut
            && bytes.windows(words.len()).any(|window| window == words.as_bytes())
        {
            arrive_last = Some(*arrive);
            *cut = Cut::No;
        }
        arrive_last.is_some()
    });
    arrive_last
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
