//! A database of its own for each test, cloned from one into which the migrations ran once.

use std::str::FromStr;

use jetway_testkit::relay::Relay;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};

/// One process at a time looks whether the template is there.
const TEMPLATE_LOCK: i64 = 0x6a65_7477_6179;

pub struct Database {
    server: PgConnectOptions,
    name: String,
}

impl Database {
    pub async fn new() -> Self {
        let url = std::env::var("JETWAY_TEST_DB").unwrap_or_else(|_| {
            panic!("JETWAY_TEST_DB is not set: run `make test`, or `scripts/test-postgres run cargo nextest run …`")
        });
        let server = PgConnectOptions::from_str(&url).unwrap();
        let mut connection = server.connect().await.expect("the Postgres in JETWAY_TEST_DB must run");
        let template = template(&server, &mut connection).await;
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let create = format!("create database {name} template {template}");
        connection.execute(AssertSqlSafe(create)).await.unwrap();
        connection.close().await.unwrap();
        Self { server, name }
    }

    pub fn options(&self) -> PgConnectOptions {
        self.server.clone().database(&self.name)
    }

    /// A relay before the server, and the way through it to this database.
    pub async fn relay(&self) -> (Relay, PgConnectOptions) {
        let directory = self.server.get_socket().expect("the test Postgres has a socket");
        let relay = Relay::start(&directory.join(".s.PGSQL.5432")).await.unwrap();
        let options = relay.url(&self.name).parse::<PgConnectOptions>().unwrap();
        (relay, options.username(self.server.get_username()))
    }
}

/// Named after what the migrations are, so that a changed one makes a new template.
async fn template(server: &PgConnectOptions, connection: &mut PgConnection) -> String {
    let migrator = sqlx::migrate!("../migrations");
    let sum = migrator
        .iter()
        .flat_map(|migration| migration.checksum.iter())
        .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let name = format!("jetway_template_{sum:016x}");
    connection.execute(AssertSqlSafe(format!("select pg_advisory_lock({TEMPLATE_LOCK})"))).await.unwrap();
    let there: bool = sqlx::query_scalar("select exists (select 1 from pg_database where datname = $1)")
        .bind(&name)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    if !there {
        // Renamed only once it is whole: a test that was killed leaves no half template.
        let half = format!("{name}_half");
        connection
            .execute(AssertSqlSafe(format!("drop database if exists {half} with (force)")))
            .await
            .unwrap();
        connection.execute(AssertSqlSafe(format!("create database {half}"))).await.unwrap();
        let mut inside = server.clone().database(&half).connect().await.unwrap();
        migrator.run(&mut inside).await.unwrap();
        inside.close().await.unwrap();
        connection.execute(AssertSqlSafe(format!("alter database {half} rename to {name}"))).await.unwrap();
    }
    connection.execute(AssertSqlSafe(format!("select pg_advisory_unlock({TEMPLATE_LOCK})"))).await.unwrap();
    name
}

impl Drop for Database {
    /// On a thread of its own, because the test's runtime may be ending.
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                if let Ok(mut connection) = server.connect().await {
                    let sql = format!("drop database if exists {name} with (force)");
                    let _left_behind_at_worst = connection.execute(AssertSqlSafe(sql)).await;
                }
            });
        });
        let _joined = dropping.join();
    }
}
