//! A whole installation: controller, drone and proxy as processes of their own, over a database of its own.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use bollard::Docker;
use jetway_api::Status;
use jetway_api::backends::Backend;
use jetway_api::connect::ConnectResponse;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::options::{Options, Role, merge};
use super::processes::{Process, executable, free_port};
use super::{database, engine, eventually};

/// For the engine to remove a large pool on a busy machine.
const GONE_MAX: Duration = Duration::from_secs(60);

pub struct Stack {
    pub docker: Docker,
    pub image: String,
    pub api: String,
    pub proxy_port: u16,
    pub directory: PathBuf,
    pub run_dir: PathBuf,
    pub database: String,
    name: String,
    pub secret: String,
    ports: HashMap<Role, u16>,
    options: Options,
    /// A role that is started again is started by this program, with these arguments before its own.
    pub wrapped: HashMap<Role, Vec<String>>,
    processes: HashMap<Role, Process>,
    pub http: reqwest::Client,
}

impl Stack {
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let name = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let database = match &options.database {
            Some(own) => own.clone(),
            None => database::create(&name).await?,
        };

        let directory = std::env::temp_dir().join(format!("jetway-{name}"));
        std::fs::create_dir_all(&directory)?;
        let run_dir =
            PathBuf::from(if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" })
                .join(&name);
        let docker = engine::docker_at(options.engine.as_deref()).await?;
        let image = engine::test_image(&docker).await?;
        let ports = HashMap::from([
            (Role::Controller, free_port()?),
            (Role::Drone, free_port()?),
            (Role::Proxy, free_port()?),
        ]);
        let mut stack = Self {
            docker,
            image,
            api: format!("http://{}:{}", options.here(), ports[&Role::Controller]),
            proxy_port: ports[&Role::Proxy],
            directory,
            run_dir,
            database,
            name,
            secret: uuid::Uuid::new_v4().simple().to_string(),
            ports,
            options,
            wrapped: HashMap::new(),
            processes: HashMap::new(),
            http: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()?,
        };
        for role in [Role::Controller, Role::Drone, Role::Proxy] {
            stack.start_role(role)?;
        }
        stack.until_ready().await?;
        Ok(stack)
    }

    /// Starts a role's process, again after it was stopped or killed.
    pub fn start_role(&mut self, role: Role) -> anyhow::Result<()> {
        let mut command = self.command_of(role)?;
        let controller = format!("http://{}:{}", self.options.here(), self.ports[&Role::Controller]);
        let host = if role == Role::Proxy { self.options.proxy_host() } else { self.options.here() };
        let listen = format!("{host}:{}", self.ports[&role]);
        let cluster = self.options.cluster_at(self.ports[&Role::Proxy]);
        command
            .env("JETWAY_SECRET", &self.secret)
            // So that the containers that a test counts are its sessions'. A test of what is learned says so.
            .env("JETWAY_WARM_LEARN", "false")
            .env("JETWAY_LOG", "debug,hyper=info,h2=info,sqlx=warn,bollard=info")
            .envs(self.options.variables.iter().map(|(name, value)| (name, value)));
        match role {
            Role::Controller => command.args(["controller", "--db", &self.database, "--cluster", &cluster]),
            Role::Drone => command
                .args(["drone", "--controller", &controller])
                .env("JETWAY_NAME", &self.name)
                .arg("--data-dir")
                .arg(self.directory.join("drone"))
                .arg("--run-dir")
                .arg(&self.run_dir),
            Role::Proxy => command.args(["proxy", "--controller", &controller, "--name", "test-proxy"]),
        };
        command.args(["--listen", &listen]).args(self.options.flags.get(&role).into_iter().flatten());
        let log = self.directory.join(format!("{role:?}.log"));
        self.processes.insert(role, Process::start(&log, &mut command)?);
        Ok(())
    }

    fn command_of(&self, role: Role) -> anyhow::Result<Command> {
        let before = match &self.options.elsewhere {
            Some(elsewhere) if role == Role::Proxy => {
                ["ip", "netns", "exec", &elsewhere.namespace].map(str::to_owned).to_vec()
            }
            _ => self.wrapped.get(&role).cloned().unwrap_or_default(),
        };
        let program = executable("jetway")?;
        let mut command = Command::new(before.first().map_or(program.as_path(), std::path::Path::new));
        if !before.is_empty() {
            command.args(&before[1..]).arg(&program);
        }
        if let (Role::Drone, Some(host)) = (role, &self.options.engine) {
            command.env("DOCKER_HOST", host);
        }
        Ok(command)
    }

    /// Every role answers, and the drone can be placed on.
    pub async fn until_ready(&self) -> anyhow::Result<()> {
        eventually("the installation is ready", Duration::from_secs(30), async || {
            let drones = self.get("/ctrl/drones").await.map_err(|error| error.to_string())?;
            if drones["drones"][0]["state"] != "ready" {
                return Err(format!("drones: {drones}"));
            }
            let ready = self
                .http
                .get(format!("http://{}:{}/ready", self.options.proxy_host(), self.proxy_port))
                .send()
                .await;
            match ready {
                Ok(answer) if answer.status().is_success() => Ok(()),
                Ok(answer) => Err(format!("proxy: {}", answer.status())),
                Err(error) => Err(format!("proxy: {error}")),
            }
        })
        .await
        .map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.logs()))
    }

    pub fn process(&mut self, role: Role) -> &mut Process {
        self.processes.get_mut(&role).expect("every role was started")
    }

    pub fn pid(&self, role: Role) -> u32 {
        self.processes.get(&role).expect("every role was started").pid()
    }

    pub fn port(&self, role: Role) -> u16 {
        self.ports[&role]
    }

    pub async fn restart(&mut self, role: Role, signal: Signal) -> anyhow::Result<()> {
        let clean = self.process(role).stop(signal).await?;
        if signal == Signal::SIGTERM && !clean {
            bail!("{role:?} did not exit 0 after SIGTERM");
        }
        self.start_role(role)
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let response = self.http.get(format!("{}{path}", self.api)).send().await?;
        let (status, text) = (response.status(), response.text().await?);
        if !status.is_success() {
            bail!("GET {path}: {status}: {text}");
        }
        Ok(serde_json::from_str(&text)?)
    }

    /// Status and body, whatever they are.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let response = self.http.post(format!("{}{path}", self.api)).json(body).send().await?;
        let (status, text) = (response.status().as_u16(), response.text().await?);
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// A connect that must succeed, with an answer that programs can read.
    pub async fn connect(&self, body: &Value) -> anyhow::Result<Value> {
        let (status, answer) = self.post("/ctrl/connect", body).await?;
        if status != 200 {
            bail!("connect {body}: {status}: {answer}");
        }
        serde_json::from_value::<ConnectResponse>(answer.clone())
            .with_context(|| format!("connect answered {answer}"))?;
        Ok(answer)
    }

    /// The request for a key that runs the test application; `spawn` overrides members of the spawn config.
    pub fn request(&self, key: &str, env: &Value, spawn: &Value) -> Value {
        let mut config = json!({ "executable": { "image": self.image, "env": env } });
        merge(&mut config, spawn);
        json!({ "key": { "name": key }, "spawn_config": config })
    }

    pub async fn status(&self, backend: &str) -> anyhow::Result<Value> {
        self.get(&format!("/pub/b/{backend}/status")).await
    }

    /// Waits until Postgres knows of the end (a drone is asked no more then), and returns the
    /// session's whole view.
    pub async fn ended(&self, backend: &str, deadline: Duration) -> anyhow::Result<Value> {
        eventually(&format!("{backend} ends"), deadline, async || {
            let view =
                self.get(&format!("/ctrl/backends/{backend}")).await.map_err(|error| error.to_string())?;
            let known = serde_json::from_value::<Backend>(view.clone());
            let known = known.map_err(|error| format!("{error}: {view}"))?;
            let is_over = known.summary.status == Status::Terminated && !known.drone_answered;
            if is_over { Ok(view) } else { Err(format!("it is {}", known.summary.status)) }
        })
        .await
    }

    pub async fn until_status(&self, backend: &str, status: &str, deadline: Duration) -> anyhow::Result<()> {
        eventually(&format!("{backend} is {status}"), deadline, async || {
            let now = self.status(backend).await.map_err(|error| error.to_string())?;
            let is_stored = status != "terminated" || now["drone_answered"].is_null();
            if now["status"] == status && is_stored { Ok(()) } else { Err(now.to_string()) }
        })
        .await
    }

    pub async fn containers(&self) -> anyhow::Result<Vec<String>> {
        engine::slots(&self.docker, "jetway.installation", &self.installation().await?).await
    }

    pub async fn no_containers(&self, deadline: Duration) -> anyhow::Result<()> {
        eventually("no container is left", deadline, async || {
            let left = self.containers().await.map_err(|error| error.to_string())?;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await
    }

    /// No container is left but slots that are kept ready for nobody yet.
    async fn only_ready_slots(&self, deadline: Duration) -> anyhow::Result<()> {
        eventually("only ready slots are left", deadline, async || {
            let text = |error: anyhow::Error| error.to_string();
            let (left, kept) =
                (self.containers().await.map_err(text)?, self.get("/ctrl/pools").await.map_err(text)?);
            let of = |what: &str| {
                kept[what]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|kind| kind["ready"].as_u64())
                    .sum::<u64>()
            };
            if left.len() as u64 <= of("pools") + of("learned") {
                Ok(())
            } else {
                Err(format!("{left:?}, {kept}"))
            }
        })
        .await
    }

    pub async fn installation(&self) -> anyhow::Result<String> {
        let mut connection = PgConnection::connect(&self.database).await?;
        let id: uuid::Uuid =
            sqlx::query_scalar("select id from installation").fetch_one(&mut connection).await?;
        Ok(id.to_string())
    }

    /// The ends of every role's log, for a failed test.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for role in [Role::Controller, Role::Drone, Role::Proxy] {
            let log =
                std::fs::read_to_string(self.directory.join(format!("{role:?}.log"))).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            text.push_str(&format!(
                "--- {role:?} ---\n{}\n",
                lines[lines.len().saturating_sub(40)..].join("\n")
            ));
        }
        text
    }

    /// Stops every session and role, and asserts that nothing is left: containers, networks, sockets, rows, processes.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        let installation = self.installation().await?;
        let live = self.get("/ctrl/backends?state=live&limit=200").await?;
        for backend in live["backends"].as_array().into_iter().flatten() {
            let id = backend["backend_id"].as_str().unwrap_or_default();
            self.post(&format!("/ctrl/b/{id}/hard-terminate"), &Value::Null).await?;
            self.ended(id, Duration::from_secs(20)).await?;
        }
        self.no_pools().await?;
        self.only_ready_slots(GONE_MAX).await?;
        let panicked = [Role::Controller, Role::Drone, Role::Proxy].into_iter().find(|role| {
            std::fs::read_to_string(self.directory.join(format!("{role:?}.log")))
                .is_ok_and(|log| log.contains("panicked at"))
        });
        if let Some(role) = panicked {
            bail!("{role:?} panicked\n{}", self.logs());
        }
        for role in [Role::Proxy, Role::Drone, Role::Controller] {
            if !self.process(role).stop(Signal::SIGTERM).await? {
                bail!("{role:?} did not exit 0 after SIGTERM\n{}", self.logs());
            }
        }
        let containers = engine::containers(&self.docker, "jetway.installation", &installation).await?;
        let networks = engine::networks(&self.docker, "jetway.installation", &installation).await?;
        let tables = self.firewall_tables()?;
        let sockets = entries(&self.run_dir.join("s"));
        let journals = entries(&self.directory.join("drone").join("backends"));
        for (what, left) in [
            ("containers", containers),
            ("networks", networks),
            ("firewall tables", tables),
            ("slot directories", sockets),
            ("journals", journals),
        ] {
            if !left.is_empty() {
                bail!("{what} are left: {left:?}\n{}", self.logs());
            }
        }
        self.remove().await
    }

    /// Tables of this drone's in the kernel's firewall.
    fn firewall_tables(&self) -> anyhow::Result<Vec<String>> {
        let identity: Value =
            serde_json::from_str(&std::fs::read_to_string(self.directory.join("drone").join("drone.json"))?)?;
        let id = identity["id"].as_str().context("the drone's id")?;
        let output =
            Command::new("nft").args(["list", "tables"]).output().context("nft: scripts/setup --test")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter(|line| line.contains(&id[..8])).map(str::to_owned).collect())
    }

    /// After a failed test: takes away what can be.
    pub async fn abandon(mut self) {
        if let Ok(installation) = self.installation().await {
            for process in self.processes.values_mut() {
                let _stopped = process.stop(Signal::SIGKILL).await;
            }
            let _removed = engine::take_away(&self.docker, "jetway.installation", &installation).await;
        }
        for table in self.firewall_tables().unwrap_or_default() {
            let words = format!("delete {table}");
            let _removed = Command::new("nft").args(words.split_whitespace()).output();
        }
        let _removed = self.remove().await;
    }

    async fn remove(&mut self) -> anyhow::Result<()> {
        self.processes.clear();
        if self.options.database.is_none() {
            database::drop(&self.name).await?;
        }
        std::fs::remove_dir_all(&self.directory)?;
        if self.run_dir.exists() {
            std::fs::remove_dir_all(&self.run_dir)?;
        }
        Ok(())
    }
}

fn entries(directory: &std::path::Path) -> Vec<String> {
    std::fs::read_dir(directory)
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default()
}
