//! A Postgres of the test's own, and a standby of it: for tests that kill it. Its commits survive its own death, not the
//! machine's. Where its programs are is found as `scripts/test-postgres` finds them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use nix::unistd::User;
use sqlx::{Connection, PgConnection};

use super::eventually;
use super::processes::Process;

const SOON: Duration = Duration::from_secs(30);

pub struct OwnPostgres {
    /// Holds the data, the socket and the log.
    directory: PathBuf,
    process: Option<Process>,
}

impl OwnPostgres {
    /// A new one, that runs.
    pub async fn start(directory: &Path) -> anyhow::Result<Self> {
        let mut made = Self::at(directory)?;
        let mut initdb = unprivileged("initdb")?;
        initdb.arg("-D").arg(made.data());
        initdb.args(["-U", "jetway", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        run(&mut initdb, directory)?;
        made.run().await?;
        Ok(made)
    }

    /// A copy of this one that follows it.
    pub async fn standby(&self, directory: &Path) -> anyhow::Result<Self> {
        let mut made = Self::at(directory)?;
        let mut copy = unprivileged("pg_basebackup")?;
        copy.arg("-h").arg(&self.directory).args(["-U", "jetway", "-X", "stream", "-R", "--no-sync"]);
        copy.args(["--checkpoint=fast", "-D"]).arg(made.data());
        run(&mut copy, directory)?;
        made.run().await?;
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

    fn at(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        if let Some(user) = other_user()? {
            nix::unistd::chown(directory, Some(user.uid), Some(user.gid))?;
        }
        Ok(Self { directory: directory.to_owned(), process: None })
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        let mut command = unprivileged("postgres")?;
        command.arg("-D").arg(self.data()).current_dir(&self.directory);
        for setting in [
            "listen_addresses=".to_owned(),
            format!("unix_socket_directories={}", self.directory.display()),
            "fsync=off".to_owned(),
            // Below its own directory, so that nothing stays elsewhere when it is killed.
            "dynamic_shared_memory_type=mmap".to_owned(),
            "shared_buffers=32MB".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        self.process = Some(Process::start(&self.directory.join("log"), &mut command)?);
        eventually("Postgres answers", SOON, async || self.connect().await.map(drop)).await
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join(".s.PGSQL.5432")
    }

    /// Around every relay.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        let url = format!("postgres://jetway@localhost/postgres?host={}", self.directory.display());
        Ok(PgConnection::connect(&url).await?)
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

fn programs() -> anyhow::Result<PathBuf> {
    if let Some(directory) = std::env::var_os("JETWAY_POSTGRES_BIN") {
        return Ok(directory.into());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut candidates: Vec<_> = path.split(':').map(PathBuf::from).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        candidates.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    candidates
        .into_iter()
        .find(|directory| ["initdb", "pg_basebackup"].iter().all(|name| directory.join(name).is_file()))
        .context("no Postgres programs found; install them or set JETWAY_POSTGRES_BIN")
}

/// Postgres refuses to be root; anybody else runs it as themselves.
fn other_user() -> anyhow::Result<Option<User>> {
    if !nix::unistd::Uid::effective().is_root() {
        return Ok(None);
    }
    let wanted = std::env::var("JETWAY_TEST_POSTGRES_USER").unwrap_or_else(|_| "postgres".to_owned());
    let found = User::from_name(&wanted)?.or(User::from_name("nobody")?);
    Ok(Some(found.context("there is no user for Postgres")?))
}

fn unprivileged(program: &str) -> anyhow::Result<Command> {
    let program = programs()?.join(program);
    let Some(user) = other_user()? else { return Ok(Command::new(program)) };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]);
    command.args(["--clear-groups", "--"]).arg(program);
    Ok(command)
}

fn run(command: &mut Command, directory: &Path) -> anyhow::Result<()> {
    let output = command.current_dir(directory).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}
