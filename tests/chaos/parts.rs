//! The parts as processes: started on their hosts, killed, stopped, continued, and started again by a supervisor if
//! they leave by themselves. When and why is not its business.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::eventually;
use crate::harness::processes::executable;
use crate::places::{CONTROLLERS, PROXY_PORT, Part, beats_dir, engine_socket, locks_dir, root, run_dir};
use crate::pools::SANDBOXES;
use crate::{engine, postgres};

/// Longer than the parts give themselves.
const LEAVE: Duration = Duration::from_secs(60);

struct Running {
    child: Child,
    /// A fault is at work on it: the supervisor looks away.
    held: bool,
    ended: Option<ExitStatus>,
}

pub struct Parts {
    secret: String,
    lease_seconds: u64,
    running: Mutex<HashMap<Part, Running>>,
}

/// A command on a part's host.
pub fn on_host(part: Part, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", part.host().namespace())).arg(program).stdin(Stdio::null());
    command
}

pub fn spawn(part: Part, command: &mut Command) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(part.log())?;
    command
        // A terminal's Ctrl-C is for the run, which then stops its parts.
        .process_group(0)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))
}

impl Parts {
    pub fn new(secret: String, lease: Duration) -> Self {
        Self { secret, lease_seconds: lease.as_secs(), running: Mutex::default() }
    }

    fn with<T>(&self, part: Part, act: impl FnOnce(&mut Running) -> T) -> anyhow::Result<T> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(act(running.get_mut(&part).with_context(|| format!("{part} was never started"))?))
    }

    pub fn start(&self, part: Part) -> anyhow::Result<()> {
        let child = match part {
            Part::Postgres => postgres::start()?,
            Part::Engine(number) => engine::start(number)?,
            Part::Controller(_) | Part::Drone(_) | Part::Proxy(_) => spawn(part, &mut self.role(part)?)?,
        };
        let running = Running { child, held: false, ended: None };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(part, running);
        Ok(())
    }

    /// Where it has left by itself and no fault has taken it over meanwhile.
    pub fn start_if_down(&self, part: Part) -> anyhow::Result<()> {
        if self.with(part, |running| !running.held && running.ended.is_some())? {
            self.start(part)?;
        }
        Ok(())
    }

    fn role(&self, part: Part) -> anyhow::Result<Command> {
        let program = executable("jetway")?;
        let mut command = on_host(part, &program.display().to_string());
        let controllers: Vec<_> = (1..=CONTROLLERS)
            .map(|number| format!("http://{}", Part::Controller(number).address()))
            .collect();
        let controllers = controllers.join(",");
        let listen = part.address();
        command
            .env("JETWAY_SECRET", &self.secret)
            .env("JETWAY_LOG", "debug,hyper=info,sqlx=warn,bollard=info,h2=info,tungstenite=info")
            .env("NO_COLOR", "1")
            .env_remove("DOCKER_HOST");
        match part {
            Part::Controller(_) => {
                let database = format!("postgres://jetway@{}/postgres", Part::Postgres.address());
                let cluster = format!("{}:{PROXY_PORT}", Part::Proxy(2).host().address());
                command.args(["controller", "--db", &database, "--cluster", &cluster, "--insecure"]);
                command.args(["--lease-seconds", &self.lease_seconds.to_string()]);
                command.env("JETWAY_WARM_LEARN", "true");
            }
            Part::Drone(number) => {
                let mounts = beats_dir(number).parent().context("it has one")?.to_owned();
                command
                    .args(["drone", "--controller", &controllers, "--name", &format!("d{number}")])
                    .arg("--data-dir")
                    .arg(part.directory())
                    .arg("--run-dir")
                    .arg(run_dir(number))
                    .arg("--mount-base")
                    .arg(mounts)
                    .args(["--sandboxes", &SANDBOXES.to_string()])
                    .env("DOCKER_HOST", format!("unix://{}", engine_socket(number).display()));
            }
            Part::Proxy(_) => {
                let name = part.to_string();
                command.args([
                    "proxy",
                    "--controller",
                    &controllers,
                    "--name",
                    &name,
                    "--hold-seconds",
                    "20",
                ]);
            }
            Part::Postgres | Part::Engine(_) => bail!("{part} is none of ours"),
        }
        command.args(["--listen", &listen]);
        Ok(command)
    }

    /// The supervisor looks away from now on, until the part is started again or let go.
    pub fn hold(&self, part: Part) -> anyhow::Result<()> {
        self.with(part, |running| running.held = true)
    }

    pub fn pid(&self, part: Part) -> anyhow::Result<u32> {
        self.with(part, |running| running.child.id())
    }

    /// To the part, and to all that belong to it where it is more than one process.
    pub fn signal(&self, part: Part, signal: Signal) -> anyhow::Result<()> {
        let (pid, ended) = self.with(part, |running| (running.child.id(), running.child.try_wait()))?;
        if !matches!(ended, Ok(None)) {
            return Ok(());
        }
        let all = match (part, signal) {
            (Part::Postgres, Signal::SIGKILL | Signal::SIGSTOP | Signal::SIGCONT) => {
                let mut all = vec![pid];
                all.extend(children(pid));
                all
            }
            _ => vec![pid],
        };
        for pid in all {
            // One of them may be gone meanwhile.
            let _sent = kill(Pid::from_raw(i32::try_from(pid)?), signal);
        }
        Ok(())
    }

    pub async fn ended(&self, part: Part) -> anyhow::Result<ExitStatus> {
        eventually(&format!("{part} ends"), LEAVE, async || {
            self.with(part, |running| match running.child.try_wait() {
                Ok(Some(status)) => {
                    running.ended = Some(status);
                    Ok(status)
                }
                Ok(None) => Err("it runs".to_owned()),
                Err(error) => Err(error.to_string()),
            })
            .map_err(|error| error.to_string())?
        })
        .await
    }

    /// Whoever left by itself, once each: a supervisor starts it again.
    pub fn left(&self) -> Vec<(Part, ExitStatus)> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = Vec::new();
        for (part, running) in running.iter_mut() {
            if running.held || running.ended.is_some() {
                continue;
            }
            if let Ok(Some(status)) = running.child.try_wait() {
                running.ended = Some(status);
                left.push((*part, status));
            }
        }
        left
    }

    /// Until it answers, as far as it can be seen from outside.
    pub async fn ready(&self, part: Part, deadline: Duration) -> anyhow::Result<()> {
        eventually(&format!("{part} answers"), deadline, async || {
            let reached = match part {
                Part::Engine(number) => engine::answers(number).await,
                _ => tokio::net::TcpStream::connect(part.address()).await.map(drop).map_err(Into::into),
            };
            reached.map_err(|error: anyhow::Error| error.to_string())
        })
        .await
    }
}

/// The processes whose parent it is.
pub fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest);
            after_name.and_then(|rest| rest.split(' ').nth(1)?.parse().ok()) == Some(parent)
        })
        .collect()
}

/// Directories of every part, and of the heartbeats and the locks, which any user of a container may write to.
pub fn directories() -> anyhow::Result<()> {
    std::fs::create_dir_all(root().join("logs"))?;
    std::fs::create_dir_all(locks_dir())?;
    // Not sticky: the kernel would let only a file's owner open it to write.
    std::fs::set_permissions(locks_dir(), std::fs::Permissions::from_mode(0o777))?;
    for part in Part::all() {
        std::fs::create_dir_all(part.directory())?;
        if let Part::Drone(number) = part {
            std::fs::create_dir_all(run_dir(number))?;
            let beats = beats_dir(number);
            std::fs::create_dir_all(&beats)?;
            std::fs::set_permissions(&beats, std::fs::Permissions::from_mode(0o1777))?;
        }
    }
    Ok(())
}
