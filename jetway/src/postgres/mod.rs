//! A Postgres of our own for `jetway dev`: found on the machine, kept in the data directory, no port, no password.
//!
//! It outlives us: a server that a killed `jetway dev` left behind is found again and used. Not the business of this
//! module: migrations, pools, and the throw-away Postgres of the tests (`scripts/test-postgres`).

mod lock;
mod place;
mod programs;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use lock::{DataDirLock, lock};

use place::Place;
use programs::Programs;
use server::Server;

/// The database, and the role that owns the whole server.
const NAME: &str = "jetway";

#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error(
        "the Postgres programs are not on this machine; install them (Debian, Ubuntu: apt-get install postgresql), \
         name their directory in JETWAY_PG_BIN, or give a database with --db"
    )]
    NoPrograms,
    #[error(
        "Postgres refuses to run as root, and this machine has neither a user `postgres` nor a user `nobody`; \
         give a database with --db"
    )]
    NoAccount,
    #[error("another `jetway dev` is using {0}; stop it, or give this one a --data-dir of its own")]
    Locked(PathBuf),
    #[error(
        "{data} was made by Postgres {made_by}, and this machine has only {found}; install postgresql-{made_by}, \
         use another --data-dir, or give a database with --db"
    )]
    OtherVersion { data: PathBuf, made_by: u32, found: String },
    #[error("cannot {doing} {path}")]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{0} is not a private directory of the account that Postgres runs under; remove it")]
    SocketDirectory(PathBuf),
    #[error("{program} failed: {output}")]
    Program { program: &'static str, output: String },
    #[error("Postgres did not answer within {} s; its log is {log}", .waited.as_secs())]
    NotAnswering { waited: Duration, log: PathBuf },
    #[error("Postgres refused to make our database")]
    Database(#[source] sqlx::Error),
}

/// A running server. Dropping it leaves the server running, for the next start to find; [`LocalPostgres::stop`] ends it.
#[derive(Debug)]
pub struct LocalPostgres {
    /// For sqlx; the path of a socket, no secret.
    pub url: String,
    /// Something that a person should be told, where there is something.
    pub note: Option<String>,
    /// True: it was running already.
    pub adopted: bool,
    server: Server,
    _lock: DataDirLock,
}

impl LocalPostgres {
    /// Starts it, or finds it running, and makes sure that our database is there. Holds the data directory's lock.
    pub async fn start(data_dir: &Path) -> Result<Self, PostgresError> {
        let lock = lock(data_dir)?;
        Self::start_locked(data_dir, lock).await
    }

    /// The same, for a caller that holds the lock already.
    pub async fn start_locked(data_dir: &Path, lock: DataDirLock) -> Result<Self, PostgresError> {
        let place = Place::choose(data_dir, place::account()?)?;
        let programs = Programs::find(place.made_by())?;
        if let Some(made_by) = place.made_by()
            && made_by != programs.major
        {
            let found = format!("Postgres {}", programs.major);
            return Err(PostgresError::OtherVersion { data: place.data, made_by, found });
        }
        let note = place.note.clone();
        let server = Server::new(programs, place);
        server.make_cluster().await?;
        let adopted = server.start().await?;
        let url = server.make_database(NAME).await?;
        Ok(Self { url, note, adopted, server, _lock: lock })
    }

    /// Ends it in order: clients are cut off, what is committed is on the disk.
    pub async fn stop(self) {
        if let Err(error) = self.server.stop().await {
            tracing::warn!(%error, "Postgres did not stop; the next start finds it");
        }
    }
}

/// Ends a server that runs there, and removes all that it has kept. The data directory's lock is
/// the caller's.
pub async fn remove(data_dir: &Path) -> Result<(), PostgresError> {
    let place = Place::choose(data_dir, place::account()?)?;
    // Without the programs nothing can run.
    if let Ok(programs) = Programs::find(place.made_by()) {
        Server::new(programs, place.clone()).stop().await?;
    }
    place.remove(data_dir)
}

#[cfg(test)]
mod tests;
