//! What idle sessions cost Postgres: nothing. Ten real agents on the fake engine and a controller, with ten sessions and with a
//! thousand beside each other, and every statement counted for a minute.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use jetway_protocol::secret::Secret;
use jetway_service::lifecycle::Lifecycle;
use jetway_testkit::relay::Relay;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::fake_runtime::fake::{Fake, FakeRuntime, Script};
use crate::harness::processes::{Process, executable, free_port};
use crate::harness::{block_on, database, eventually};

const DRONES: usize = 10;
const SOON: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);
const CONNECTS_AT_ONCE: usize = 16;

struct Installation {
    name: String,
    api: String,
    directory: PathBuf,
    relay: Relay,
    controller: Process,
    agents: Lifecycle,
    /// Held until the end: they are the agents.
    drones: Vec<jetway_drone::Drone>,
    http: reqwest::Client,
}

impl Installation {
    async fn start() -> anyhow::Result<Self> {
        let name = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let admin = database::create(&name).await?;
        let directory = std::env::temp_dir().join(format!("jetway-{name}"));
        std::fs::create_dir_all(&directory)?;
        let (_, socket) = admin.split_once("host=").context("the test Postgres has a socket")?;
        let relay = Relay::start(&PathBuf::from(socket).join(".s.PGSQL.5432")).await?;
        let (secret, port) = (uuid::Uuid::new_v4().simple().to_string(), free_port()?);
        let mut command = Command::new(executable("jetway")?);
        command.args(["controller", "--db", &relay.url(&name), "--cluster", "localhost:9"]);
        command.args(["--listen", &format!("127.0.0.1:{port}")]).env("JETWAY_SECRET", &secret);
        let controller = Process::start(&directory.join("controller.log"), &mut command)?;
        let mut installation = Self {
            name,
            api: format!("http://127.0.0.1:{port}"),
            directory,
            relay,
            controller,
            agents: Lifecycle::new(),
            drones: Vec::new(),
            http: reqwest::Client::builder().no_proxy().build()?,
        };
        for number in 0..DRONES {
            let drone = installation.drone(number, &secret).await?;
            installation.drones.push(drone);
        }
        Ok(installation)
    }

    async fn drone(&self, number: usize, secret: &str) -> anyhow::Result<jetway_drone::Drone> {
        let (name, directory) = (format!("d{number}"), self.directory.join(number.to_string()));
        let config = jetway_drone::Config {
            controllers: vec![self.api.clone()],
            listen: "127.0.0.1:0".parse()?,
            advertise: None,
            name: name.parse()?,
            cluster: None,
            pool: String::new().parse()?,
            data_dir: directory.join("data"),
            run_dir: directory.join("run"),
            init_executable: PathBuf::new(),
            session_subnet: None,
            mount_base: None,
            allowed_networks: Vec::new(),
            backends_max: 1000,
            cpus: Some(1000.0),
            memory_bytes: Some(1 << 44),
            sandboxes: 0,
            calm: jetway_drone::Calm::default(),
            warm_memory_bytes: None,
            image_gc_percent: 0,
            helper_image: None,
            container_runtime: None,
            names_by_key: false,
            host_paths: Vec::new(),
            engine_patience: SOON,
            secret: Secret::new(secret)?,
        };
        std::fs::create_dir_all(&config.run_dir)?;
        let boot_id = Some(jetway_service::clock::boot_id()?);
        let fake = Fake::new(Script { boot_id, ..Script::default() }, self.agents.clone());
        let runtime = Arc::new(FakeRuntime(fake));
        Ok(jetway_drone::start_with_runtime(config, self.agents.clone(), runtime).await?)
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.http.get(format!("{}{path}", self.api)).send().await?.json().await?)
    }

    async fn count(&self, state: &str) -> anyhow::Result<usize> {
        let drones = self.get("/ctrl/drones").await?;
        let drones = drones["drones"].as_array().context("drones")?.iter();
        Ok(drones.filter(|drone| drone["state"] == state).count())
    }

    /// Returns when all of them are ready, and Postgres knows it.
    async fn open(&self, sessions: usize) -> anyhow::Result<()> {
        eventually("every drone is ready", SOON, async || match self.count("ready").await {
            Ok(DRONES) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await?;
        let connects = stream::iter(0..sessions).map(|number| async move {
            let executable = json!({ "image": "app" });
            let body =
                json!({ "key": { "name": number.to_string() }, "spawn_config": { "executable": executable } });
            let answer = self.http.post(format!("{}/ctrl/connect", self.api)).json(&body).send().await?;
            let (status, text) = (answer.status(), answer.text().await?);
            ensure!(status == 200, "{status}: {text}");
            anyhow::Ok(())
        });
        connects.buffer_unordered(CONNECTS_AT_ONCE).try_collect::<Vec<()>>().await?;
        let expected = i64::try_from(sessions)?;
        eventually("every session is ready", SOON, async || match self.ready().await {
            Ok(ready) if ready == expected => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Around the relay.
    async fn ready(&self) -> anyhow::Result<i64> {
        let mut connection = database::connect(&self.name).await?;
        let sql = "select count(*) from backends where ended_at is null and status = 50";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut connection).await?)
    }

    async fn end(mut self) -> anyhow::Result<()> {
        self.agents.token().cancel();
        ensure!(self.controller.stop(Signal::SIGTERM).await?, "the controller ends in order");
        self.drones.clear();
        database::drop(&self.name).await?;
        std::fs::remove_dir_all(&self.directory)?;
        Ok(())
    }
}

#[test]
fn a_thousand_idle_sessions_cost_as_many_statements_a_minute_as_ten() {
    block_on(async {
        measure().await.expect("a minute of idle sessions");
    });
}

async fn measure() -> anyhow::Result<()> {
    let (few, many) = tokio::try_join!(Installation::start(), Installation::start())?;
    tokio::try_join!(few.open(10), many.open(1000))?;
    let counted = || (few.relay.statements(), many.relay.statements());
    let (start, before) = (Instant::now(), counted());
    eventually("a minute is over", 2 * MINUTE, async || {
        (start.elapsed() >= MINUTE).then_some(()).ok_or_else(|| start.elapsed())
    })
    .await?;
    let (few_after, many_after) = counted();
    let (with_ten, with_thousand) = (few_after - before.0, many_after - before.1);
    println!(
        "figure: statements a minute, {DRONES} drones: {with_ten} with 10 idle sessions, {with_thousand} with 1000"
    );
    ensure!((few.ready().await?, many.ready().await?) == (10, 1000), "they were idle, no more");
    // Periods have jitter, so two minutes are never quite alike; one statement a session would be a thousand more.
    ensure!(
        with_ten > 100 && with_ten.abs_diff(with_thousand) * 10 < with_ten,
        "{with_ten} and {with_thousand}"
    );
    few.end().await?;
    many.end().await
}
