//! One server's life: made, found running or started, asked, stopped. `pg_ctl` does the work, under the account.
//!
//! `pg_ctl` gives the server a process session of its own, so that a Ctrl-C at our terminal does not stop it before us.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::process::Command;
use tokio::time::Instant;

use super::PostgresError;
use super::place::{Account, Place, file_error};
use super::programs::Programs;

/// How long a server that runs may be silent (it may be recovering) before it is stopped and started again.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// How long a start may take: recovery after a crash of the host is the longest.
const START_WAIT: Duration = Duration::from_secs(60);
/// How long the processes of a killed server may take to notice.
const ORPHANS_WAIT: Duration = Duration::from_secs(10);
const STOP_FAST_SECONDS: u64 = 10;
const STOP_NOW_SECONDS: u64 = 5;
const POLL: Duration = Duration::from_millis(20);
/// A log of more bytes is put aside at the next start; the one before it goes.
const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Characters of a program's output that an error shows.
const OUTPUT_CHARS_MAX: usize = 2000;
/// The number in the socket's name; no port is opened.
const PORT: u16 = 5432;
/// With each statement's own errors the log would grow with use; they are the client's to log.
const SETTINGS: &str = "listen_addresses = ''
port = 5432
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = 64MB
min_wal_size = 32MB
max_wal_size = 256MB
fsync = on
synchronous_commit = on
log_min_messages = log
log_checkpoints = off
huge_pages = off
";

#[derive(Debug)]
pub struct Server {
    programs: Programs,
    place: Place,
}

impl Server {
    pub fn new(programs: Programs, place: Place) -> Self {
        Self { programs, place }
    }

    /// Makes the cluster beside its place and moves it there whole, so that a first start that was cut off heals.
    pub async fn make_cluster(&self) -> Result<(), PostgresError> {
        let data = &self.place.data;
        if data.join("PG_VERSION").is_file() {
            return Ok(());
        }
        let new = data.with_extension("new");
        if new.exists() {
            std::fs::remove_dir_all(&new).map_err(file_error("remove", &new))?;
        }
        self.place.make_private(&new)?;
        let mut initdb = self.program("initdb");
        initdb
            .args(["--username=jetway", "--auth=trust", "--encoding=UTF8", "--locale=C", "--pgdata"])
            .arg(&new);
        run("initdb", initdb, START_WAIT).await?;
        std::fs::rename(&new, data).map_err(file_error("move the new cluster to", data))
    }

    /// True: it was running already.
    pub async fn start(&self) -> Result<bool, PostgresError> {
        if self.running().is_some() {
            if self.answers_within(ANSWER_WAIT).await {
                return Ok(true);
            }
            self.stop().await?;
        }
        let socket = self.place.make_socket_directory()?;
        self.write_settings(&socket)?;
        self.prepare_log()?;
        self.clear_remains(&socket).await?;
        let mut start = self.pg_ctl("start");
        start.args(["-w", "-s", "-t", &START_WAIT.as_secs().to_string(), "-l"]).arg(&self.place.log);
        run("pg_ctl start", start, START_WAIT + Duration::from_secs(5)).await?;
        if self.answers_within(ANSWER_WAIT).await {
            Ok(false)
        } else {
            Err(PostgresError::NotAnswering { waited: ANSWER_WAIT, log: self.place.log.clone() })
        }
    }

    /// Creates the database where there is none; the answer is its URL.
    pub async fn make_database(&self, name: &'static str) -> Result<String, PostgresError> {
        let log = self.place.log.clone();
        let (_, socket) =
            self.running().ok_or(PostgresError::NotAnswering { waited: Duration::ZERO, log })?;
        let mut connection =
            PgConnection::connect_with(&options(&socket)).await.map_err(PostgresError::Database)?;
        let there: Option<i32> = sqlx::query_scalar("select 1 from pg_database where datname = $1")
            .bind(name)
            .fetch_optional(&mut connection)
            .await
            .map_err(PostgresError::Database)?;
        if there.is_none() {
            let create = sqlx::AssertSqlSafe(format!("create database {name}"));
            sqlx::raw_sql(create).execute(&mut connection).await.map_err(PostgresError::Database)?;
        }
        let _closed_or_broken = connection.close().await;
        let path = socket.to_string_lossy().replace('%', "%25").replace('/', "%2F").replace(' ', "%20");
        Ok(format!("postgres://jetway@localhost/{name}?host={path}"))
    }

    /// In order if it can be, at once if it must be. Stopping what does not run is done.
    pub async fn stop(&self) -> Result<(), PostgresError> {
        let Some((_, socket)) = self.running() else { return Ok(()) };
        for (mode, seconds) in [("fast", STOP_FAST_SECONDS), ("immediate", STOP_NOW_SECONDS)] {
            let mut stop = self.pg_ctl("stop");
            stop.args(["-w", "-s", "-m", mode, "-t", &seconds.to_string()]);
            let stopped = run("pg_ctl stop", stop, Duration::from_secs(seconds + 2)).await;
            if self.running().is_none() {
                let _another_may_use_it = std::fs::remove_dir(socket);
                return Ok(());
            }
            if mode == "immediate" {
                return stopped;
            }
        }
        Ok(())
    }

    /// The server's pid and the directory of its socket, if its process lives. A pid alone may be another's by now;
    /// a server's working directory is its data.
    fn running(&self) -> Option<(u32, PathBuf)> {
        let (pid, socket) = parse_pid_file(&std::fs::read_to_string(self.pid_file()).ok()?)?;
        let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        (directory == self.place.data).then_some((pid, socket))
    }

    fn pid_file(&self) -> PathBuf {
        self.place.data.join("postmaster.pid")
    }

    /// After a kill: waits for the server's other processes, which hold its memory until they notice, and removes the
    /// lock files, since their pids may be those of others by now, or of a dead process that nobody has waited for.
    async fn clear_remains(&self, socket: &Path) -> Result<(), PostgresError> {
        let deadline = Instant::now() + ORPHANS_WAIT;
        while self.orphans_remain() {
            if Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        let name = format!(".s.PGSQL.{PORT}");
        for path in [self.pid_file(), socket.join(&name), socket.join(format!("{name}.lock"))] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(file_error("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn orphans_remain(&self) -> bool {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok())
            .any(|directory| directory == self.place.data)
    }

    async fn answers_within(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        while let Some((_, socket)) = self.running() {
            let answer =
                tokio::time::timeout_at(deadline, PgConnection::connect_with(&options(&socket))).await;
            if let Ok(Ok(connection)) = answer {
                let _closed_or_broken = connection.close().await;
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        false
    }

    fn write_settings(&self, socket: &Path) -> Result<(), PostgresError> {
        let path = self.place.data.join("postgresql.conf");
        let socket = socket.to_string_lossy().replace('\'', "''");
        let text = format!(
            "# Written by `jetway dev` at every start; put settings of your own into local.conf beside it.\n\
             {SETTINGS}unix_socket_directories = '{socket}'\ninclude_if_exists = 'local.conf'\n"
        );
        std::fs::write(&path, text).map_err(file_error("write", &path))
    }

    fn prepare_log(&self) -> Result<(), PostgresError> {
        let log = &self.place.log;
        if log.metadata().is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
            std::fs::rename(log, log.with_extension("log.old")).map_err(file_error("move away", log))?;
        }
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true).mode(0o600).open(log).map_err(file_error("open", log))?;
        self.place.give(log)
    }

    fn pg_ctl(&self, verb: &str) -> Command {
        let mut command = self.program("pg_ctl");
        command.arg(verb).arg("-D").arg(&self.place.data);
        command
    }

    /// A program under the account, without what the caller's environment says about other servers.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.bin.join(name));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PG") {
                command.env_remove(variable);
            }
        }
        command.env("LC_ALL", "C").current_dir("/").kill_on_drop(true);
        command.stdin(std::process::Stdio::null());
        if let Some(Account { uid, gid }) = self.place.account {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn options(socket: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass().socket(socket).port(PORT).username("jetway").database("postgres")
}

/// Line 1 is the pid, line 5 the directory of the socket; the rest does not matter here.
fn parse_pid_file(text: &str) -> Option<(u32, PathBuf)> {
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    Some((pid, PathBuf::from(lines.nth(3).unwrap_or_default())))
}

/// Its output goes to a file that is gone at once, not to a pipe: the server that `pg_ctl` leaves would hold a pipe open.
async fn run(name: &'static str, mut command: Command, wait: Duration) -> Result<(), PostgresError> {
    let failed = |output: String| PostgresError::Program { program: name, output };
    let output = unnamed_file().map_err(|error| failed(error.to_string()))?;
    let copies = output.try_clone().and_then(|a| Ok((a, output.try_clone()?)));
    let (out, err) = copies.map_err(|error| failed(error.to_string()))?;
    let mut child = command.stdout(out).stderr(err).spawn().map_err(|error| failed(error.to_string()))?;
    let status = match tokio::time::timeout(wait, child.wait()).await {
        Ok(status) => status.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("not done after {} s", wait.as_secs()))),
    };
    if status.success() { Ok(()) } else { Err(failed(tail(&output))) }
}

fn unnamed_file() -> std::io::Result<std::fs::File> {
    Ok(rustix::fs::memfd_create("jetway-output", rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

fn tail(file: &std::fs::File) -> String {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; OUTPUT_CHARS_MAX];
    let start = file.metadata().map_or(0, |metadata| metadata.len().saturating_sub(OUTPUT_CHARS_MAX as u64));
    let length = file.read_at(&mut bytes, start).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_read() {
        let text = "4711\n/data\n1700000000\n5432\n/run/jetway-pg-1\n\n  12345  1\nready   \n";
        assert_eq!(parse_pid_file(text), Some((4711, PathBuf::from("/run/jetway-pg-1"))));
        assert_eq!(parse_pid_file("4711\n"), Some((4711, PathBuf::new())));
        assert_eq!(parse_pid_file(""), None);
        assert_eq!(parse_pid_file("-4\n"), None, "a stand-alone backend, not a server");
    }
}
