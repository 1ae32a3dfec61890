//! Tunnels that are only held: a process of its own for each few thousand, because a process may have only so many files. It says
//! `held` once all are open, and after a line on its input asks each for an echo and says how many answered.

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::http::{Connection, upgrade};

pub const FLAG: &str = "--hold";
const OPENING_MAX: usize = 16;
const SAYS_MAX: Duration = Duration::from_secs(120);

/// What to hold, as the words after [`FLAG`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub proxy: SocketAddr,
    pub source: Ipv4Addr,
    pub tunnels: usize,
    /// The request's host and path.
    pub host: String,
    pub path: String,
}

impl Hold {
    fn words(&self) -> [String; 5] {
        let Self { proxy, source, tunnels, host, path } = self;
        [proxy.to_string(), source.to_string(), tunnels.to_string(), host.clone(), path.clone()]
    }

    fn parse(words: &[String]) -> anyhow::Result<Self> {
        let [proxy, source, tunnels, host, path] = words else { anyhow::bail!("{FLAG}: {words:?}") };
        let (proxy, source, tunnels) = (proxy.parse()?, source.parse()?, tunnels.parse()?);
        Ok(Self { proxy, source, tunnels, host: host.clone(), path: path.clone() })
    }

    async fn open(&self) -> anyhow::Result<Connection> {
        let mut connection = Connection::open_from(self.source, self.proxy).await?;
        connection.tunnel(&upgrade(&self.host, &self.path)).await?;
        Ok(connection)
    }
}

/// The process's whole life.
pub async fn hold(words: &[String]) -> anyhow::Result<()> {
    let hold = Hold::parse(words)?;
    let mut tunnels = Vec::new();
    while tunnels.len() < hold.tunnels {
        let opening = (0..OPENING_MAX.min(hold.tunnels - tunnels.len())).map(|_| hold.open());
        tunnels.extend(futures_util::future::try_join_all(opening).await?);
    }
    say("held")?;
    tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new())).await??;
    let mut answered = 0;
    for mut tunnel in tunnels {
        answered += usize::from(tunnel.echo(b"still there").await.is_ok());
    }
    say(&answered.to_string())
}

fn say(text: &str) -> anyhow::Result<()> {
    println!("{text}");
    Ok(std::io::stdout().flush()?)
}

/// Such a process.
pub struct Holder {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    tunnels: usize,
}

impl Holder {
    /// Returns once all are open.
    pub async fn start(hold: &Hold) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(Path::new(&program));
        command.arg(FLAG).args(hold.words()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let input = process.stdin.take().context("stdin")?;
        let output = BufReader::new(process.stdout.take().context("stdout")?).lines();
        let mut holder = Self { _process: process, input, output, tunnels: hold.tunnels };
        let said = holder.said().await?;
        ensure!(said == "held", "a holder said {said:?}");
        Ok(holder)
    }

    async fn said(&mut self) -> anyhow::Result<String> {
        let line = timeout(SAYS_MAX, self.output.next_line()).await.context("a holder says nothing")??;
        line.context("a holder has ended; its reason is above")
    }

    /// How many of its tunnels carry nothing any more.
    pub async fn lost(mut self) -> anyhow::Result<usize> {
        self.input.write_all(b"\n").await?;
        let answered: usize = self.said().await?.parse()?;
        Ok(self.tunnels - answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_hold_goes_through_a_command_line() {
        let (proxy, source) = ("127.0.0.1:9090".parse().unwrap(), Ipv4Addr::new(127, 0, 0, 2));
        let (host, path) = ("localhost:9090".to_owned(), "/token/".to_owned());
        let hold = Hold { proxy, source, tunnels: 5000, host, path };
        assert_eq!(Hold::parse(&hold.words()).unwrap(), hold);
        assert!(Hold::parse(&hold.words()[1..]).is_err());
    }
}
