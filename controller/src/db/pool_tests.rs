//! When a connection is used again, and what a server that has gone costs, with a word and without.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use sqlx::ConnectOptions;

use super::*;
use crate::db::deadlines;
use crate::testing::Database;

const DEADLINE: Duration = Duration::from_millis(500);

async fn ask(pool: &Pool, sql: &'static str) -> Result<i32, DbError> {
    let mut connection = pool.acquire().await?;
    Ok(sqlx::query_scalar(sql).fetch_one(&mut *connection).await?)
}

async fn process(pool: &Pool) -> Result<i32, DbError> {
    ask(pool, "select pg_backend_pid()").await
}

fn limits(connections: usize, deadline: Duration) -> Limits {
    Limits { connections, wait: Duration::from_millis(300), deadline }
}

fn of(database: &Database, connections: usize) -> Pool {
    Pool::new(database.options(), limits(connections, Duration::from_secs(60)), Generation::default())
}

#[tokio::test]
async fn a_connection_is_used_again_unless_it_may_be_unclean() {
    let database = Database::new().await;
    let pool = of(&database, 2);
    let first = process(&pool).await.unwrap();
    assert_eq!(process(&pool).await.unwrap(), first);
    assert!(ask(&pool, "select 1 / 0").await.is_err() && pool.idle() == 0);
    let second = process(&pool).await.unwrap();
    assert_ne!(second, first);
    let slow = ask(&pool, "select 1 from pg_sleep(60)");
    assert!(timeout(Duration::from_millis(50), slow).await.is_err());
    assert_eq!((pool.idle(), pool.free()), (0, 2), "its answer would be the next one's");
    assert_ne!(process(&pool).await.unwrap(), second);
}

#[tokio::test]
async fn a_connection_whose_transaction_was_left_open_is_closed() {
    let database = Database::new().await;
    let pool = of(&database, 1);
    let mut loan = pool.acquire().await.unwrap();
    drop(loan.begin().await.unwrap());
    let into_it = sqlx::query("select 1").execute(&mut *loan).await;
    assert!(into_it.is_err(), "it would be a part of what was given up");
    drop(loan);
    assert_eq!(pool.idle(), 0);
    for commits in [true, false] {
        let mut loan = pool.acquire().await.unwrap();
        let transaction = loan.begin().await.unwrap();
        let ended = if commits { transaction.commit().await } else { transaction.rollback().await };
        ended.unwrap();
        drop(loan);
        assert_eq!(pool.idle(), 1);
    }
}

#[tokio::test]
async fn there_are_never_more_than_allowed_and_a_wait_has_its_end() {
    let database = Database::new().await;
    let pool = of(&database, 2);
    let many = join_all((0..50).map(|_| process(&pool))).await;
    let processes: HashSet<i32> = many.into_iter().map(Result::unwrap).collect();
    assert!(processes.len() <= 2, "{processes:?}");
    let _held = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    assert!(matches!(process(&pool).await, Err(DbError::Query(sqlx::Error::PoolTimedOut))));
    pool.close().await;
    assert!(matches!(process(&pool).await, Err(DbError::Query(sqlx::Error::PoolClosed))));
}

/// As many idle connections as the pool may have.
async fn fill(pool: &Pool) {
    let held = join_all((0..pool.limits().connections).map(|_| pool.acquire())).await;
    assert!(held.iter().all(Result::is_ok));
    drop(held);
    assert_eq!(pool.idle(), pool.limits().connections);
}

#[tokio::test]
async fn of_those_that_died_idle_one_statement_fails() {
    let database = Database::new().await;
    let pool = of(&database, 4);
    fill(&pool).await;
    let mut other = database.options().connect().await.unwrap();
    sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()")
        .execute(&mut other)
        .await
        .unwrap();
    assert!(process(&pool).await.is_err());
    process(&pool).await.unwrap();
}

#[tokio::test]
async fn a_host_that_vanishes_costs_one_deadline_and_no_permit() {
    let database = Database::new().await;
    let (relay, options) = database.relay().await;
    let generation = Generation::default();
    let pools = [4, 2]
        .map(|connections| Pool::new(options.clone(), limits(connections, DEADLINE), generation.clone()));
    for pool in &pools {
        fill(pool).await;
    }
    relay.cut();
    let begun = Instant::now();
    assert!(matches!(process(&pools[0]).await, Err(DbError::Silent)));
    assert!(begun.elapsed() < DEADLINE * 2, "{:?}", begun.elapsed());
    for pool in &pools {
        let asked = Instant::now();
        process(pool).await.unwrap();
        assert!(asked.elapsed() < DEADLINE, "an idle connection to the old host: {:?}", asked.elapsed());
        assert_eq!(pool.free(), pool.limits().connections);
    }
}

/// The server takes the connection, and says nothing.
#[tokio::test]
async fn a_connection_without_an_answer_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = PgConnectOptions::new().host("127.0.0.1").port(silent.local_addr().unwrap().port());
    let pool = Pool::new(options, limits(1, DEADLINE), Generation::default());
    let begun = Instant::now();
    assert!(matches!(process(&pool).await, Err(DbError::Silent)));
    assert!(begun.elapsed() < deadlines::CONNECT + DEADLINE, "{:?}", begun.elapsed());
    assert_eq!(pool.free(), 1);
}

/// Each kind of statement, and a transaction as a whole.
#[tokio::test]
async fn nothing_is_waited_for_beyond_its_deadline() {
    let database = Database::new().await;
    let pool = Arc::new(Pool::new(database.options(), limits(1, DEADLINE), Generation::default()));
    let slow = "select 1 from generate_series(1, 3), pg_sleep(60)";
    for kind in 0..4 {
        let begun = Instant::now();
        let mut loan = pool.acquire().await.unwrap();
        let failed = match kind {
            0 => sqlx::query(slow).execute(&mut *loan).await.err(),
            1 => sqlx::query(slow).fetch_all(&mut *loan).await.err(),
            2 => sqlx::raw_sql(slow).fetch_optional(&mut *loan).await.err(),
            _ => {
                let mut transaction = loan.begin().await.unwrap();
                let mut failed = None;
                while failed.is_none() {
                    failed = sqlx::query("select pg_sleep(0.1)").execute(&mut *transaction).await.err();
                }
                failed
            }
        };
        drop(loan);
        assert!(matches!(failed.map(DbError::from), Some(DbError::Silent)), "{kind}");
        assert!((DEADLINE..DEADLINE * 2).contains(&begun.elapsed()), "{kind}: {:?}", begun.elapsed());
        assert_eq!((pool.idle(), pool.free()), (0, 1), "{kind}");
    }
}

#[tokio::test]
async fn a_longer_deadline_is_one_loan_s_alone() {
    let database = Database::new().await;
    let pool = Pool::new(database.options(), limits(1, DEADLINE), Generation::default());
    let mut loan = pool.acquire().await.unwrap();
    loan.set_deadline(DEADLINE * 4);
    sqlx::query("select pg_sleep(0.7)").execute(&mut *loan).await.unwrap();
    drop(loan);
    assert_eq!(pool.idle(), 1);
    assert!(matches!(ask(&pool, "select 1 from pg_sleep(60)").await, Err(DbError::Silent)));
}
