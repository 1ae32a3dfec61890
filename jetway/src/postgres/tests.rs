//! The whole life of a local Postgres, with the real programs.

use std::path::{Path, PathBuf};

use sqlx::{Connection, PgConnection};

use super::*;

struct TestDir(PathBuf);

impl TestDir {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("jetway-postgres-{}", uuid::Uuid::new_v4().simple())))
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn pid(data: &Path) -> i32 {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    text.lines().next().unwrap().parse().unwrap()
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn data_survives_a_stop_and_a_dropped_owner() {
    let dir = TestDir::new();
    let first = LocalPostgres::start(&dir.0).await.unwrap();
    assert!(!first.adopted);
    let mut connection = PgConnection::connect(&first.url).await.unwrap();
    sqlx::raw_sql("create table kept (n int); insert into kept values (42)")
        .execute(&mut connection)
        .await
        .unwrap();
    let taken = LocalPostgres::start(&dir.0).await.unwrap_err();
    assert!(matches!(taken, PostgresError::Locked(_)), "{taken}");
    let port: String = sqlx::query_scalar("show listen_addresses").fetch_one(&mut connection).await.unwrap();
    assert_eq!(port, "");
    let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&mut connection).await.unwrap();
    assert_eq!(fsync, "on");

    // As after a kill -9: nobody stopped it.
    let server = pid(&dir.0.join("postgres"));
    let session = rustix::process::getsid(rustix::process::Pid::from_raw(server)).unwrap();
    assert_eq!(session.as_raw_nonzero().get(), server, "a session of its own");
    drop(first);
    let second = LocalPostgres::start(&dir.0).await.unwrap();
    assert!(second.adopted);
    assert_eq!(pid(&dir.0.join("postgres")), server);
    second.stop().await;
    assert!(!dir.0.join("postgres/postmaster.pid").exists());

    let third = LocalPostgres::start(&dir.0).await.unwrap();
    let mut connection = PgConnection::connect(&third.url).await.unwrap();
    let n: i32 = sqlx::query_scalar("select n from kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(n, 42);
    third.stop().await;
}

#[tokio::test]
async fn a_killed_server_and_a_cut_off_first_start_heal() {
    let dir = TestDir::new();
    std::fs::create_dir_all(dir.0.join("postgres.new/base")).unwrap();
    let first = LocalPostgres::start(&dir.0).await.unwrap();
    let killed = pid(&dir.0.join("postgres"));
    kill(killed);
    drop(first);
    let second = LocalPostgres::start(&dir.0).await.unwrap();
    assert!(!second.adopted);
    assert_ne!(pid(&dir.0.join("postgres")), killed);
    second.stop().await;
}

#[tokio::test]
async fn data_of_another_version_is_refused_and_untouched() {
    let dir = TestDir::new();
    std::fs::create_dir_all(dir.0.join("postgres")).unwrap();
    std::fs::write(dir.0.join("postgres/PG_VERSION"), "9\n").unwrap();
    let error = LocalPostgres::start(&dir.0).await.unwrap_err();
    assert!(error.to_string().contains("was made by Postgres 9"), "{error}");
    assert_eq!(std::fs::read_dir(dir.0.join("postgres")).unwrap().count(), 1);
}

/// Root's private directories are closed to the account that Postgres runs under.
#[tokio::test]
async fn an_unreachable_data_directory_sends_the_data_elsewhere() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = TestDir::new();
    std::fs::create_dir(&dir.0).unwrap();
    std::fs::set_permissions(&dir.0, std::fs::Permissions::from_mode(0o700)).unwrap();
    let data_dir = dir.0.join("inner");
    let first = LocalPostgres::start(&data_dir).await.unwrap();
    let note = first.note.clone().unwrap();
    first.stop().await;
    let elsewhere = std::fs::read_to_string(data_dir.join("postgres.place")).unwrap();
    let elsewhere = Path::new(elsewhere.trim());
    assert!(note.contains(elsewhere.to_str().unwrap()), "{note}");
    assert!(elsewhere.join("postgres/PG_VERSION").exists());
    let second = LocalPostgres::start(&data_dir).await.unwrap();
    assert_eq!(second.note.as_deref(), Some(note.as_str()), "the same place again");
    second.stop().await;
    std::fs::remove_dir_all(elsewhere).unwrap();
}
