//! The files of one Postgres below a directory, how they are made, and how a server is told of
//! them. The directory holds the data and the socket. Not here: when a server runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use sqlx::{Connection, PgConnection};

use super::programs;

#[derive(Debug, Clone)]
pub struct Cluster {
    pub directory: PathBuf,
}

impl Cluster {
    /// A new one. Its commits survive the server's death, not the machine's.
    pub fn make(directory: &Path) -> anyhow::Result<Self> {
        let made = Self::empty(directory)?;
        let data = made.data();
        let data = data.to_str().context("a path in UTF-8")?;
        let arguments = ["-D", data, "-U", "jetway", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"];
        programs::run("initdb", directory, &arguments)?;
        Ok(made)
    }

    /// A copy of `primary`, which runs, that follows it.
    pub fn following(primary: &Self, directory: &Path) -> anyhow::Result<Self> {
        let made = Self::empty(directory)?;
        let (data, socket) = (made.data(), primary.directory.to_str().context("a path in UTF-8")?);
        let data = data.to_str().context("a path in UTF-8")?;
        let from = [
            "-h",
            socket,
            "-U",
            "jetway",
            "-X",
            "stream",
            "-R",
            "--no-sync",
            "--checkpoint=fast",
            "-D",
            data,
        ];
        programs::run("pg_basebackup", directory, &from)?;
        Ok(made)
    }

    fn empty(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        programs::give(directory)?;
        Ok(Self::of(directory))
    }

    /// One that was made before.
    pub fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join(".s.PGSQL.5432")
    }

    /// The command of a server of it, with `more` settings than those that every test's has.
    /// `launch`: as [`programs::unprivileged`] has it.
    pub fn server(&self, more: &[&str], launch: impl FnOnce(&str) -> Command) -> anyhow::Result<Command> {
        let mut command = programs::unprivileged("postgres", launch)?;
        command.arg("-D").arg(self.data()).current_dir(&self.directory);
        let socket = format!("unix_socket_directories={}", self.directory.display());
        let usual = [
            socket.as_str(),
            "fsync=off",
            // Below its own directory, so that nothing stays elsewhere when it is killed.
            "dynamic_shared_memory_type=mmap",
            "shared_buffers=32MB",
        ];
        for setting in usual.iter().chain(more) {
            command.arg("-c").arg(setting);
        }
        Ok(command)
    }

    /// By its socket, past every relay.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        let url = format!("postgres://jetway@localhost/postgres?host={}", self.directory.display());
        Ok(PgConnection::connect(&url).await?)
    }
}
