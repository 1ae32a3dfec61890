//! The stack of docker-compose.yml under test: its images made from this machine's build and packages, its ports and
//! addresses out of the way of anybody else's, and the proof that nothing is left of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::eventually;
use super::processes::{executable, free_port};

/// How long any one command of compose may take on a busy machine.
const HEALTHY: Duration = Duration::from_secs(60);

pub struct Compose {
    program: Vec<String>,
    root: PathBuf,
    environment: BTreeMap<String, OsString>,
    pub project: String,
    pub web: String,
    /// Its port.
    pub proxy_2: u16,
    made: Vec<String>,
}

impl Compose {
    /// Makes the images; starts nothing.
    pub fn prepare() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the root")?.to_owned();
        let program = program()?;
        let version = Command::new(&program[0]).args(&program[1..]).args(["version", "--short"]).output()?;
        println!("{} {}", program.join(" "), text(&version).trim());
        let project = format!("jetway-test-{}", std::process::id());
        let ports: Vec<u16> = (0..5).map(|_| free_port()).collect::<Result<_, _>>()?;
        let address = |port: u16| format!("http://localhost:{port}");
        // Below 10.64.0.0/10, whose networks are the sessions'; two runs at one time get different ones.
        let network = format!("10.62.{}", std::process::id() % 250);
        let mut compose = Self {
            program,
            root,
            environment: BTreeMap::new(),
            web: address(ports[0]),
            proxy_2: ports[4],
            made: vec![format!("{project}-jetway:dev"), format!("{project}-web:dev")],
            project,
        };
        let variables = [
            ("COMPOSE_PROJECT_NAME", compose.project.clone()),
            ("JETWAY_IMAGE", compose.made[0].clone()),
            ("WEB_IMAGE", compose.made[1].clone()),
            ("JETWAY_NETWORK", network),
            ("WEB_PORT", ports[0].to_string()),
            ("CONTROLLER_1_PORT", ports[1].to_string()),
            ("CONTROLLER_2_PORT", ports[2].to_string()),
            ("PROXY_PORT", ports[3].to_string()),
            ("PROXY_2_PORT", ports[4].to_string()),
        ];
        compose.environment.extend(variables.map(|(name, value)| (name.to_owned(), value.into())));
        compose.make_images()?;
        Ok(compose)
    }

    fn make_images(&mut self) -> anyhow::Result<()> {
        let bin = executable("jetway")?.parent().context("a directory")?.to_owned();
        let mut image = Command::new(self.root.join("scripts/image"));
        image.arg("--executables").arg(bin).arg(&self.made[0]);
        print!("{}", text(&self.done(image)?));
        // From the registry only where somebody says that there is one.
        if std::env::var_os("JETWAY_TEST_PULL").is_none() {
            let made = text(&self.done(Command::new(self.root.join("tests/compose/images")))?);
            let named = made.lines().filter_map(|line| line.split_once('='));
            self.environment.extend(named.map(|(name, image)| (name.to_owned(), image.into())));
        }
        self.run(&["build", "web"]).map(drop)
    }

    /// A setting that the file reads, as a user's environment has it.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.into());
    }

    /// `docker-compose …`, to its end.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program[0]);
        command
            .args(&self.program[1..])
            .arg("--file")
            .arg(self.root.join("docker-compose.yml"))
            .args(arguments);
        Ok(text(&self.done(command)?))
    }

    /// One of the operator's verbs, inside a controller's container.
    pub fn jetway(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run(&[&["exec", "-T", "controller-1", "jetway"], arguments].concat())
    }

    /// The service restarts, and is as healthy as before.
    pub async fn restart(&self, service: &str) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.run(&["restart", service])?;
        self.until_healthy(service).await?;
        Ok(start.elapsed())
    }

    pub async fn until_healthy(&self, service: &str) -> anyhow::Result<()> {
        eventually(&format!("{service} is healthy"), HEALTHY, async || {
            let state = self.state(service).map_err(|error| error.to_string())?;
            match state["Health"]["Status"].as_str() {
                Some("healthy") => Ok(()),
                None if state["Running"] == true => Ok(()),
                _ => Err(state.to_string()),
            }
        })
        .await
    }

    fn state(&self, service: &str) -> anyhow::Result<Value> {
        let filter = format!("label=com.docker.compose.service={service}");
        let id = self.docker(&["ps", "--all", "--quiet", "--filter", &filter])?;
        ensure!(id.lines().count() == 1, "{service} has the containers {id:?}");
        let state =
            Command::new("docker").args(["inspect", "--format", "{{json .State}}", id.trim()]).output()?;
        Ok(serde_json::from_slice(&state.stdout)?)
    }

    /// `docker … ` of what belongs to the project.
    fn docker(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let label = format!("label=com.docker.compose.project={}", self.project);
        let mut command = Command::new("docker");
        command.args(arguments).args(["--filter", &label]);
        Ok(text(&self.done(command)?))
    }

    pub fn logs(&self) -> String {
        let logs = self.run(&["logs", "--no-color", "--tail=60"]);
        logs.unwrap_or_else(|error| error.to_string())
    }

    /// Takes everything down, and says what is left: nothing.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.run(&["--profile", "second", "--profile", "desktop", "down", "--volumes", "--timeout", "20"])?;
        let mut left = String::new();
        for kind in
            [&["ps", "--all", "--quiet"][..], &["volume", "ls", "--quiet"], &["network", "ls", "--quiet"]]
        {
            left += &self.docker(kind)?;
        }
        ensure!(left.is_empty(), "left behind: {left}");
        let run = PathBuf::from("/dev/shm").join(format!("{}-one", self.project));
        ensure!(!run.exists(), "{} is left behind", run.display());
        self.remove_images();
        Ok(())
    }

    fn remove_images(&mut self) {
        for image in self.made.drain(..) {
            let _in_use_or_absent = Command::new("docker")
                .args(["image", "rm", &image])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }

    fn done(&self, mut command: Command) -> anyhow::Result<Output> {
        // What docker-compose 1.29 builds with is the engine's own builder.
        command.envs(&self.environment).env("DOCKER_BUILDKIT", "0").env("COMPOSE_DOCKER_CLI_BUILD", "0");
        command.stdin(Stdio::null()).current_dir(&self.root);
        let output = command.output().with_context(|| format!("{command:?}"))?;
        if !output.status.success() {
            bail!("{command:?} failed: {}{}", text(&output), String::from_utf8_lossy(&output.stderr));
        }
        Ok(output)
    }
}

/// After a failure: whatever still runs of it goes, so that other tests are judged by themselves.
impl Drop for Compose {
    fn drop(&mut self) {
        if self.made.is_empty() {
            return;
        }
        let _nothing_runs = self.jetway(&["stop", "--all"]);
        let down = ["--profile", "second", "--profile", "desktop", "down", "--volumes", "--timeout", "10"];
        let _already_down = self.run(&down);
        self.remove_images();
    }
}

/// Compose v2 where the client has it, else docker-compose; `JETWAY_TEST_COMPOSE` names another.
fn program() -> anyhow::Result<Vec<String>> {
    if let Ok(given) = std::env::var("JETWAY_TEST_COMPOSE") {
        return Ok(given.split_whitespace().map(str::to_owned).collect());
    }
    for program in [&["docker", "compose"][..], &["docker-compose"]] {
        let version = Command::new(program[0]).args(&program[1..]).arg("version").output();
        if version.is_ok_and(|output| output.status.success()) {
            return Ok(program.iter().map(|word| (*word).to_owned()).collect());
        }
    }
    bail!("no docker-compose: scripts/setup --test installs it")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
