//! Controllers and proxies as processes over one database, and an issuer that looks at the first of the proxies.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use super::front::Front;
use super::issuer::{Issuer, Settings};
use crate::harness::processes::{Process, executable, free_port};
use crate::harness::{block_on, database, eventually};

/// What a test wants.
pub struct Plan {
    /// Flags of every controller.
    pub flags: Vec<String>,
    pub controllers: usize,
    /// None is started: the test does that.
    pub waits: bool,
    pub proxies: usize,
    pub seconds: u64,
    pub binding: Option<(&'static str, &'static str)>,
    /// The issuer asks the first proxy's DNS.
    pub by_dns: bool,
    /// Something stands before the issuer, and does what it cannot.
    pub with_front: bool,
    /// Whoever looks at a port where nobody is.
    pub looks_elsewhere: bool,
    /// The processes' log filter.
    pub log: &'static str,
}

impl Plan {
    pub fn new(flags: &[&str]) -> Self {
        Self {
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            controllers: 1,
            waits: false,
            proxies: 1,
            seconds: 90 * 86_400,
            binding: None,
            by_dns: false,
            with_front: false,
            looks_elsewhere: false,
            log: "debug,hyper=info,sqlx=warn",
        }
    }
}

pub struct One {
    pub port: u16,
    pub tls_port: u16,
    pub dns_port: u16,
    process: Option<Process>,
}

pub struct Fleet {
    pub directory: PathBuf,
    pub issuer: Issuer,
    pub front: Option<Front>,
    pub proxies: Vec<One>,
    pub controllers: Vec<One>,
    pub http: reqwest::Client,
    name: String,
    pub database: String,
    secret: String,
    flags: Vec<String>,
    log: &'static str,
}

/// Runs a test in a fleet of its own, and leaves nothing of it.
pub fn with_fleet<F>(plan: Plan, test: F)
where
    F: AsyncFnOnce(&mut Fleet) -> anyhow::Result<()>,
{
    block_on(async {
        let mut fleet = Fleet::start(plan).await.expect("the fleet starts");
        let outcome = test(&mut fleet).await;
        let (logs, ended) = (fleet.logs(), fleet.end().await);
        if let Err(error) = outcome {
            panic!("{error:#}\n{logs}");
        }
        ended.unwrap_or_else(|error| panic!("after the test: {error:#}\n{logs}"));
    });
}

impl Fleet {
    async fn start(plan: Plan) -> anyhow::Result<Self> {
        let name = format!("acme{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let directory = std::env::temp_dir().join(format!("jetway-{name}"));
        std::fs::create_dir(&directory)?;
        let one = || -> anyhow::Result<One> {
            Ok(One { port: free_port()?, tls_port: free_port()?, dns_port: free_port()?, process: None })
        };
        let proxies = (0..plan.proxies).map(|_| one()).collect::<Result<Vec<_>, _>>()?;
        let controllers = (0..plan.controllers).map(|_| one()).collect::<Result<Vec<_>, _>>()?;
        let settings = Settings {
            seconds: plan.seconds,
            binding: plan.binding,
            http_port: if plan.looks_elsewhere { free_port()? } else { proxies[0].port },
            tls_port: proxies[0].tls_port,
            dns_port: plan.by_dns.then_some(proxies[0].dns_port),
        };
        let issuer = Issuer::start(&directory, settings).await?;
        let front = if plan.with_front { Some(Front::start(&issuer, &directory).await?) } else { None };
        let mut fleet = Self {
            issuer,
            front,
            proxies,
            controllers,
            http: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()?,
            database: database::create(&name).await?,
            name,
            directory,
            secret: uuid::Uuid::new_v4().simple().to_string(),
            flags: plan.flags,
            log: plan.log,
        };
        for which in 0..fleet.proxies.len() {
            fleet.start_proxy(which)?;
        }
        if !plan.waits {
            fleet.start_controllers().await?;
        }
        Ok(fleet)
    }

    pub fn start_controller(&mut self, which: usize) -> anyhow::Result<()> {
        let directory_url =
            self.front.as_ref().map_or_else(|| self.issuer.directory_url(), Front::directory_url);
        let mut command = self.command()?;
        command
            .args([
                "controller",
                "--db",
                &self.database,
                "--cluster",
                "cluster.example",
                "--acme-agree-terms",
            ])
            .args(["--acme-directory", &directory_url, "--acme-ca-certificate"])
            .arg(self.issuer.ca())
            .args(["--listen", &format!("127.0.0.1:{}", self.controllers[which].port)])
            .args(&self.flags);
        let log = self.directory.join(format!("controller-{which}.log"));
        self.controllers[which].process = Some(Process::start(&log, &mut command)?);
        Ok(())
    }

    pub fn start_proxy(&mut self, which: usize) -> anyhow::Result<()> {
        let urls: Vec<_> =
            self.controllers.iter().map(|one| format!("http://127.0.0.1:{}", one.port)).collect();
        let one = &self.proxies[which];
        let mut command = self.command()?;
        command
            .args(["proxy", "--controller", &urls.join(","), "--tls-acme", "--listen"])
            .arg(format!("127.0.0.1:{}", one.port))
            .args(["--tls-listen", &format!("127.0.0.1:{}", one.tls_port)])
            .args(["--acme-dns-listen", &format!("127.0.0.1:{}", one.dns_port)]);
        let log = self.directory.join(format!("proxy-{which}.log"));
        self.proxies[which].process = Some(Process::start(&log, &mut command)?);
        Ok(())
    }

    pub async fn start_controllers(&mut self) -> anyhow::Result<()> {
        for which in 0..self.controllers.len() {
            self.start_controller(which)?;
        }
        self.until_ready().await
    }

    /// From the next start of a controller on.
    pub fn flags_are(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(executable("jetway")?);
        command.env("JETWAY_SECRET", &self.secret).env("JETWAY_LOG", self.log);
        Ok(command)
    }

    pub async fn until_ready(&self) -> anyhow::Result<()> {
        eventually("the processes are ready", Duration::from_secs(30), async || {
            for one in self.controllers.iter().filter(|one| one.process.is_some()) {
                let url = format!("http://127.0.0.1:{}/pub/health", one.port);
                self.http.get(url).send().await.map_err(|error| error.to_string())?;
            }
            for one in &self.proxies {
                let url = format!("http://127.0.0.1:{}/ready", one.port);
                let answer = self.http.get(url).send().await.map_err(|error| error.to_string())?;
                if !answer.status().is_success() {
                    return Err(answer.status().to_string());
                }
            }
            Ok(())
        })
        .await
    }

    pub async fn stop_controller(&mut self, which: usize, signal: Signal) -> anyhow::Result<()> {
        if let Some(mut process) = self.controllers[which].process.take() {
            process.stop(signal).await?;
        }
        Ok(())
    }

    /// As the API shows it; the first controller is asked.
    pub async fn certificates(&self) -> anyhow::Result<Vec<Value>> {
        let url = format!("http://127.0.0.1:{}/ctrl/certificates", self.controllers[0].port);
        let answer: Value = self.http.get(url).send().await?.error_for_status()?.json().await?;
        Ok(answer["certificates"].as_array().context("a list")?.clone())
    }

    pub async fn certificate(&self, id: &str) -> anyhow::Result<Value> {
        let all = self.certificates().await?;
        let found = all.iter().find(|one| one["id"] == id).cloned();
        found.with_context(|| format!("{id} is not among {all:?}"))
    }

    /// Waits until `is` holds of a certificate.
    pub async fn until(
        &self,
        id: &str,
        deadline: Duration,
        is: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        eventually(id, deadline, async || {
            let one = self.certificate(id).await.map_err(|error| error.to_string())?;
            if is(&one) { Ok(one) } else { Err(one.to_string()) }
        })
        .await
    }

    /// What a verb of the command line says.
    pub fn says(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let api = format!("http://127.0.0.1:{}", self.controllers[0].port);
        let output =
            Command::new(executable("jetway")?).args(arguments).args(["--api-url", &api]).output()?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.into_owned()) } else { bail!("{out}{err}") }
    }

    pub async fn rows(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.database).await?)
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.join(name)).unwrap_or_default()
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if Path::new(&name).extension().is_some_and(|extension| extension == "log") {
                let log = self.log(&name);
                let lines: Vec<_> = log.lines().collect();
                text += &format!("--- {name} ---\n{}\n", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
        text
    }

    async fn end(mut self) -> anyhow::Result<()> {
        for one in self.proxies.iter_mut().chain(&mut self.controllers) {
            if let Some(mut process) = one.process.take()
                && !process.stop(Signal::SIGTERM).await?
            {
                bail!("a process did not exit 0 after SIGTERM");
            }
        }
        let panicked = self.logs().contains("panicked at");
        self.issuer.end().await?;
        database::drop(&self.name).await?;
        std::fs::remove_dir_all(&self.directory)?;
        if panicked { bail!("something panicked") } else { Ok(()) }
    }
}
