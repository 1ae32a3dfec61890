//! `jetway dev`: controller, drone and proxy in one process over this machine's Docker, with a Postgres of its own.
//!
//! The parts are the same as when they run apart, and talk over the same sockets. What is here is only their order:
//! Postgres, controller, drone, proxy, demo; and back again at Ctrl-C.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jetway_protocol::ids::{ClusterName, DroneName, PoolName};
use jetway_protocol::secret::Secret;
use jetway_proxy::{HOLD, Share};
use jetway_service::lifecycle::Lifecycle;
use jetway_service::telemetry;

use crate::cli::roles::parse_cidr;
use crate::cli::signals::StopSignals;
use crate::postgres::{self, LocalPostgres};

mod clean;
mod demo;
mod files;
mod narrate;
pub mod places;

/// Where the API is unless it was told otherwise, and where the verbs look for it.
const API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// How long Ctrl-C waits for sessions to stop: their grace of 10 s, and some for the engine.
const STOP_SESSIONS: Duration = Duration::from_secs(20);

/// From the drone's start to its first heartbeat, at most.
const UNTIL_PLACEABLE: Duration = Duration::from_secs(30);

/// A developer's own machine keeps few slots: four parked ones.
const WARM_MEMORY_BYTES: i64 = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub struct DevArguments {
    /// Where everything is kept
    #[arg(long, env = "JETWAY_DATA_DIR", default_value = ".jetway")]
    data_dir: PathBuf,
    /// Sockets to the sessions' inits: a short path, on tmpfs
    #[arg(long, env = "JETWAY_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// A Postgres to use instead of one of our own
    #[arg(long, env = "JETWAY_DB", hide_env_values = true)]
    db: Option<String>,
    /// Where the API listens
    #[arg(long, env = "JETWAY_API", default_value_t = API)]
    api: SocketAddr,
    /// Where browsers connect
    #[arg(long, env = "JETWAY_PROXY", default_value = "127.0.0.1:9090")]
    proxy: SocketAddr,
    /// First remove all that earlier runs have left: sessions, their database, what they kept by
    /// mounts
    #[arg(long, env = "JETWAY_CLEAN", conflicts_with = "db")]
    clean: bool,
    /// Leave sessions running at the end; the next start adopts them
    #[arg(long, env = "JETWAY_KEEP")]
    keep: bool,
    /// Without the demo and its image
    #[arg(long, env = "JETWAY_NO_DEMO")]
    no_demo: bool,
    /// Addresses for sessions, as CIDR; by default the first free /18 in 10.64.0.0/10
    #[arg(long, env = "JETWAY_SESSION_SUBNET", value_parser = parse_cidr)]
    session_subnet: Option<(Ipv4Addr, u8)>,
    /// Host directory below which specs may mount; by default mounts in the data directory
    #[arg(long, env = "JETWAY_MOUNT_BASE")]
    mount_base: Option<PathBuf>,
    /// Docker networks that specs may name, separated by commas
    #[arg(long, env = "JETWAY_NETWORKS", value_delimiter = ',')]
    networks: Vec<String>,
    /// Network namespaces to have ready, in which containers start in a third of the time; 0: none
    #[arg(long, env = "JETWAY_SANDBOXES", default_value_t = 2, value_parser = clap::value_parser!(u32).range(..=256))]
    sandboxes: u32,
    /// Bytes of memory for slots that are kept ready because they are likely to be needed: a parked
    /// one takes 16 MB
    #[arg(long, env = "JETWAY_WARM_MEMORY_BYTES", default_value_t = WARM_MEMORY_BYTES, value_parser = clap::value_parser!(i64).range(0..))]
    warm_memory_bytes: i64,
    /// The init that runs in each container; by default the one beside this executable
    #[arg(long, env = "JETWAY_INIT")]
    init: Option<PathBuf>,
}

pub async fn run(arguments: DevArguments) -> anyhow::Result<ExitCode> {
    telemetry::start("warn");
    anyhow::ensure!(
        arguments.api.ip().is_loopback(),
        "jetway dev serves its API on loopback only; for others to reach it, run the roles apart (README, Roles)"
    );
    let signals = StopSignals::watch()?;
    let data_dir = files::prepare_data_dir(&arguments.data_dir)?;
    let init = places::init_executable(arguments.init.clone())?;
    let run_dir = match &arguments.run_dir {
        Some(run_dir) => run_dir.clone(),
        None => places::default_run_dir(&data_dir)?,
    };
    // One `jetway dev` a data directory, whichever database it uses.
    let lock = postgres::lock(&data_dir)?;
    if arguments.clean {
        let config = || {
            let secret = files::secret(&data_dir)?;
            drone_config(&arguments, &data_dir, run_dir.clone(), init.clone(), secret, Vec::new())
        };
        clean::clean(&data_dir, config).await?;
        say("removed what earlier runs had left");
    }
    let (db, postgres, _lock) = match &arguments.db {
        Some(db) => (db.clone(), None, Some(lock)),
        None => {
            let postgres =
                LocalPostgres::start_locked(&data_dir, lock).await.context("cannot start Postgres")?;
            if let Some(note) = &postgres.note {
                say(&format!("note: {note}"));
            }
            (postgres.url.clone(), Some(postgres), None)
        }
    };
    let outcome = serve(&arguments, &data_dir, run_dir.clone(), init, db, &signals).await;
    if arguments.run_dir.is_none() {
        places::leave_run_dir(&run_dir);
    }
    if let Some(postgres) = postgres {
        postgres.stop().await;
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn serve(
    arguments: &DevArguments,
    data_dir: &Path,
    run_dir: PathBuf,
    init: PathBuf,
    db: String,
    signals: &StopSignals,
) -> anyhow::Result<()> {
    let secret = files::secret(data_dir)?;
    let (api, proxy) = (free_port(arguments.api, "--api")?, free_port(arguments.proxy, "--proxy")?);
    let cluster: ClusterName =
        format!("localhost:{}", proxy.port()).parse().context("the proxy's address")?;

    // One lifecycle a part, so that they end in order: the proxy first, the controller last.
    let (controller_life, drone_life, proxy_life) = (Lifecycle::new(), Lifecycle::new(), Lifecycle::new());
    let http = jetway_service::client::builder().build()?;
    let demo = demo::Demo::new(api, cluster.clone(), http.clone());
    let controller = jetway_controller::start(
        jetway_controller::Config {
            db,
            db_password: None,
            listen: api,
            cluster,
            secret: secret.clone(),
            api_key: None,
            insecure: false,
            public_url: Some(format!("http://{api}")),
            // One host: what would be cut off from it is gone with it.
            lease: None,
            warm_learn: true,
            acme: None,
            host_hold: jetway_controller::HOST_HOLD,
            extra_routes: Some(if arguments.no_demo { axum::Router::new() } else { demo.routes() }),
        },
        controller_life.clone(),
    )
    .await
    .context("the controller did not start")?;

    let controllers = vec![format!("http://{}", controller.address)];
    let config = drone_config(arguments, data_dir, run_dir, init, secret.clone(), controllers.clone())?;
    let drone = match jetway_drone::start(config, drone_life.clone()).await.context("the drone did not start")
    {
        Ok(drone) => drone,
        Err(error) => {
            controller_life.stop().await;
            return Err(error);
        }
    };
    let narrator = narrate::Narrator::new(controller.address, http);
    drone_life.spawn_until_stopped(narrator.run(drone.events()));

    let serving = serve_browsers(arguments, &demo, proxy, secret, controllers, &proxy_life);
    let outcome = tokio::select! {
        outcome = serving => outcome,
        _ = signals.first() => Ok(()),
    };
    say(&format!("\nstopping{}", if arguments.keep { "; sessions stay" } else { "" }));
    proxy_life.stop().await;
    if !arguments.keep {
        let left = drone.stop_sessions(STOP_SESSIONS).await;
        if left > 0 {
            say(&format!("{left} sessions did not end in time; the next start takes them up again"));
        }
    }
    drone_life.stop().await;
    if arguments.keep {
        // What was only kept ready goes all the same.
        drone.leave_engine().await;
    }
    controller_life.stop().await;
    outcome
}

/// Starts the proxy, prepares the demo and says so; then goes on until it is dropped. Returns only failures.
async fn serve_browsers(
    arguments: &DevArguments,
    demo: &demo::Demo,
    listen: SocketAddr,
    secret: Secret,
    controllers: Vec<String>,
    lifecycle: &Lifecycle,
) -> anyhow::Result<()> {
    let config = jetway_proxy::Config {
        controllers,
        listen,
        name: "dev".to_owned(),
        cluster: None,
        secret,
        hold: HOLD,
        root_redirect: (!arguments.no_demo).then(|| format!("http://{}/demo", demo.api())),
        trusted_forwarders: Vec::new(),
        proxy_protocol: false,
        drain: Duration::ZERO,
        reuse_port: false,
        client: Share::default(),
        token: Share::default(),
        body_pause: None,
        tls: None,
        acme_dns: None,
        brand: String::new(),
    };
    let proxy = jetway_proxy::start(config, lifecycle.clone()).await.context("the proxy did not start")?;
    if !arguments.no_demo {
        demo.prepare_image()
            .await
            .context("the demo's image could not be made (jetway dev --no-demo goes without)")?;
    }
    until_placeable(demo).await?;
    announce(arguments, demo, proxy.address);
    std::future::pending().await
}

/// Until the drone has registered and a connect would find it.
async fn until_placeable(demo: &demo::Demo) -> anyhow::Result<()> {
    let start = tokio::time::Instant::now();
    while !demo.is_placeable().await {
        anyhow::ensure!(
            start.elapsed() < UNTIL_PLACEABLE,
            "the drone did not register (JETWAY_LOG=info tells more)"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn announce(arguments: &DevArguments, demo: &demo::Demo, proxy: SocketAddr) {
    let api = demo.api();
    say("");
    if !arguments.no_demo {
        say(&format!("  demo   http://{api}/demo   open it in two windows"));
    }
    say(&format!("  api    http://{api}/ctrl/connect"));
    say(&format!("  proxy  http://localhost:{}", proxy.port()));
    say("");
    if demo.image().is_some() {
        say(&format!("  try    {}", demo_line(api)));
        say("");
    }
    say("jetway is ready");
}

/// A command that works as it is printed. The verbs know the usual address by themselves.
fn demo_line(api: SocketAddr) -> String {
    let elsewhere = if api == API { String::new() } else { format!(" --api-url http://{api}") };
    format!(
        "bin/jetway connect my-room --image {} --max-idle-seconds 30{elsewhere}",
        crate::demo::image::LATEST
    )
}

/// One line on stdout. A terminal that was closed is no reason to break off an orderly stop.
pub fn say(text: &str) {
    let _nobody_reads_it = writeln!(std::io::stdout(), "{text}");
}

fn drone_config(
    arguments: &DevArguments,
    data_dir: &Path,
    run_dir: PathBuf,
    init_executable: PathBuf,
    secret: Secret,
    controllers: Vec<String>,
) -> anyhow::Result<jetway_drone::Config> {
    let mount_base = match &arguments.mount_base {
        Some(mount_base) => mount_base.clone(),
        None => files::prepare_data_dir(&data_dir.join(files::MOUNTS))?,
    };
    let data_dir = data_dir.join(files::DRONE);
    Ok(jetway_drone::Config {
        controllers,
        listen: files::remembered_address(&data_dir)?,
        advertise: None,
        name: "dev".parse::<DroneName>()?,
        cluster: None,
        pool: "".parse::<PoolName>()?,
        data_dir,
        run_dir,
        init_executable,
        session_subnet: arguments.session_subnet,
        mount_base: Some(mount_base),
        allowed_networks: arguments.networks.clone(),
        backends_max: 200,
        cpus: None,
        memory_bytes: None,
        sandboxes: arguments.sandboxes,
        calm: jetway_drone::Calm::FOR_A_BROWSER_HERE,
        warm_memory_bytes: Some(arguments.warm_memory_bytes),
        helper_image: None,
        container_runtime: None,
        names_by_key: true,
        // A developer's own disk is nearly full as a rule, and the images are the developer's.
        image_gc_percent: 0,
        host_paths: Vec::new(),
        engine_patience: Duration::ZERO,
        secret,
    })
}

/// Resolves port 0, and says early and clearly when a port is taken.
fn free_port(address: SocketAddr, flag: &str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).with_context(|| {
        format!("{address} is in use; choose another with {flag} (0 as the port takes a free one)")
    })?;
    Ok(listener.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_command_says_where_the_api_is() {
        let usual = "bin/jetway connect my-room --image jetway-demo:latest --max-idle-seconds 30";
        assert_eq!(demo_line(API), usual);
        let elsewhere = format!("{usual} --api-url http://127.0.0.1:18080");
        assert_eq!(demo_line("127.0.0.1:18080".parse().unwrap()), elsewhere);
    }
}
