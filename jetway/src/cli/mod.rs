//! The command line: one variant a command, each flag with an environment variable `JETWAY_…`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod api;
mod connect;
mod doctor;
mod drain;
mod health;
mod logs;
mod ls;
mod roles;
mod status;
mod stop;
mod table;

pub use roles::parse_cidr;

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
    /// Stop a session
    Stop(stop::StopArguments),
    /// Keep new sessions away from a drone
    Drain(drain::DrainArguments),
    /// Check this machine and the installation, and say what to do
    Doctor(doctor::DoctorArguments),
    /// Exit 0 if the URL's component answers as healthy
    Health(health::HealthArguments),

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
        Command::Doctor(arguments) => doctor::run(arguments).await,
        Command::Health(arguments) => health::run(arguments).await,
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
