//! A Postgres of the test's own, and a standby of it: for tests that kill it. Its commits survive
//! its own death, not the machine's. The Postgres that most tests share is
//! `scripts/test-postgres`'.

mod cluster;
mod programs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use sqlx::PgConnection;

pub use cluster::Cluster;
pub use programs::{give, programs};

use crate::eventually::{SOON, eventually};
use crate::processes::Process;

pub struct OwnPostgres {
    cluster: Cluster,
    process: Option<Process>,
}

impl OwnPostgres {
    /// A new one, that runs.
    pub async fn start(directory: &Path) -> anyhow::Result<Self> {
        Self::run(Cluster::make(directory)?).await
    }

    /// A copy of this one that follows it.
    pub async fn standby(&self, directory: &Path) -> anyhow::Result<Self> {
        let made = Self::run(Cluster::following(&self.cluster, directory)?).await?;
        let mut primary = self.connect().await?;
        eventually("the standby follows", SOON, async || {
            let sql = "select count(*) from pg_stat_replication where state = 'streaming'";
            match sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut primary).await {
                Ok(1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        Ok(made)
    }

    async fn run(cluster: Cluster) -> anyhow::Result<Self> {
        let mut command = cluster.server(&["listen_addresses="], |program| Command::new(program))?;
        let process = Some(Process::start(&cluster.directory.join("log"), &mut command)?);
        let made = Self { cluster, process };
        eventually("Postgres answers", SOON, async || made.connect().await.map(drop)).await?;
        Ok(made)
    }

    pub fn socket(&self) -> PathBuf {
        self.cluster.socket()
    }

    /// Past every relay.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        self.cluster.connect().await
    }

    pub async fn execute(&self, sql: &'static str) -> anyhow::Result<()> {
        sqlx::query(sql).execute(&mut self.connect().await?).await?;
        Ok(())
    }

    pub async fn number(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.connect().await?).await?)
    }

    /// At once and without a checkpoint, as a crash; but its shared memory is given back.
    pub async fn crash(&mut self) -> anyhow::Result<()> {
        if let Some(process) = &mut self.process {
            process.stop(Signal::SIGQUIT).await?;
        }
        self.process = None;
        Ok(())
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        let Some(process) = &mut self.process else { return };
        let _asked = process.signal(Signal::SIGQUIT);
        for _ in 0..200 {
            if !process.is_running() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}
