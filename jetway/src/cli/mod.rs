//! The command line: one variant a command. Every flag `--some-thing` has an environment variable `JETWAY_SOME_THING`.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

mod acme;
pub mod api;
mod certificates;
mod connect;
mod doctor;
mod drain;
mod forget;
mod health;
mod logs;
mod ls;
pub mod output;
mod pool;
mod role;
pub mod roles;
mod secrets;
mod session;
pub mod signals;
mod status;
mod stop;
mod stop_all;
mod tls;
mod usage;

#[derive(Debug, Parser)]
#[command(
    name = "jetway",
    version,
    about = "One call, one URL, one process: an orchestrator of interactive sessions",
    after_help = "Try it: jetway dev, then open the URL that it prints."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole system in one process, on this machine's Docker, with a Postgres of its own
    Dev(Box<crate::dev::DevArguments>),
    /// A controller: the API, over Postgres
    Controller(Box<roles::ControllerArguments>),
    /// A drone: the agent of this host's Docker engine
    Drone(Box<roles::DroneArguments>),
    /// A proxy: where browsers connect
    Proxy(Box<roles::ProxyArguments>),

    /// Get the URL of a key's session; start one if none runs
    Connect(Box<connect::ConnectArguments>),
    /// List sessions
    Ls(ls::LsArguments),
    /// Show the installation, or one session
    Status(status::StatusArguments),
    /// Show what a session printed
    Logs(logs::LogsArguments),
    /// Stop a session, or all of them
    Stop(stop::StopArguments),
    /// Keep new sessions away from a drone
    Drain(drain::DrainArguments),
    /// Slots that are kept ready: list, show, declare and remove pools
    Pool(pool::PoolArguments),
    /// Certificates that controllers order: list them, or order one now
    Certificates(certificates::CertificatesArguments),
    /// Give the keys of a dead host's sessions away at once
    Forget(forget::ForgetArguments),
    /// Check this machine and the installation, and say what to do
    Doctor(doctor::DoctorArguments),
    /// Exit 0 if a role answers as healthy: this container's, the one named, or the one at a URL
    Health(health::HealthArguments),
    /// Write random secrets into files that do not exist yet
    Secrets(secrets::SecretsArguments),

    /// The demo application, as it runs inside its container
    #[command(hide = true)]
    DemoApp,
    /// Closes the host's ports to sessions; run by the drone in a helper container
    #[command(hide = true, disable_help_flag = true)]
    NetGuard {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// On how many processors the work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    One,
    Half,
    All,
}

impl Arguments {
    /// From the command line and the environment; ends the process with one line where they make no sense.
    pub fn read() -> Self {
        let matches = Self::command().mut_subcommands(with_environment).try_get_matches();
        matches
            .and_then(|matches| Self::from_arg_matches(&matches))
            .unwrap_or_else(|error| usage::end(&error))
    }

    pub fn threads(&self) -> Threads {
        match &self.command {
            Command::Dev(_) | Command::DemoApp | Command::NetGuard { .. } => Threads::All,
            Command::Controller(_) | Command::Drone(_) => Threads::Half,
            Command::Connect(_)
            | Command::Ls(_)
            | Command::Status(_)
            | Command::Logs(_)
            | Command::Stop(_)
            | Command::Drain(_)
            | Command::Pool(_)
            | Command::Certificates(_)
            | Command::Forget(_)
            | Command::Doctor(_)
            | Command::Health(_)
            | Command::Secrets(_) => Threads::One,
            // It has threads of its own for what its clients send.
            Command::Proxy(_) => Threads::One,
        }
    }
}

/// Gives each flag that names no variable of its own the one that follows from its name.
fn with_environment(command: clap::Command) -> clap::Command {
    command.mut_args(|argument| match argument.get_long() {
        Some(long) if argument.get_env().is_none() && long != "help" => {
            let name = format!("JETWAY_{}", long.to_uppercase().replace('-', "_"));
            argument.env(clap::builder::OsStr::from(std::ffi::OsString::from(name))).hide_env(true)
        }
        _ => argument,
    })
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Dev(arguments) => crate::dev::run(*arguments).await,
        Command::Controller(arguments) => roles::controller(*arguments).await,
        Command::Drone(arguments) => roles::drone(*arguments).await,
        Command::Proxy(arguments) => roles::proxy(*arguments).await,
        Command::Connect(arguments) => connect::run(*arguments).await,
        Command::Ls(arguments) => ls::run(arguments).await,
        Command::Status(arguments) => status::run(arguments).await,
        Command::Logs(arguments) => logs::run(arguments).await,
        Command::Stop(arguments) => stop::run(arguments).await,
        Command::Drain(arguments) => drain::run(arguments).await,
        Command::Pool(arguments) => pool::run(arguments).await,
        Command::Certificates(arguments) => certificates::run(arguments).await,
        Command::Forget(arguments) => forget::run(arguments).await,
        Command::Doctor(arguments) => doctor::run(arguments).await,
        Command::Health(arguments) => health::run(arguments).await,
        Command::Secrets(arguments) => secrets::run(&arguments),
        Command::DemoApp => demo_app().await,
        Command::NetGuard { arguments } => net_guard(&arguments).await,
    }
}

async fn demo_app() -> anyhow::Result<ExitCode> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    crate::demo::serve(port).await?;
    Ok(ExitCode::SUCCESS)
}

async fn net_guard(arguments: &[String]) -> anyhow::Result<ExitCode> {
    jetway_drone::runtime::docker::guard_helper::run_helper(arguments).await?;
    Ok(ExitCode::SUCCESS)
}
