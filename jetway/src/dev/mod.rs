//! `jetway dev`: controller, drone and proxy in one process over this machine's Docker, with a Postgres of its own.
//!
//! The parts are the same as when they run apart, and talk over the same sockets. What is here is only their order:
//! Postgres, controller, drone, proxy, demo; and back again at Ctrl-C.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jetway_protocol::ids::{ClusterName, DroneName, PoolName};
use jetway_protocol::secret::Secret;
use jetway_proxy::Share;
use jetway_service::lifecycle::Lifecycle;
use jetway_service::telemetry;

use crate::cli::parse_cidr;
use crate::cli::signals::StopSignals;
use crate::postgres::{self, LocalPostgres};

mod demo;
mod files;
mod narrate;
pub mod places;

/// How long Ctrl-C waits for sessions to stop: their grace of 10 s, and some for the engine.
const STOP_SESSIONS: Duration = Duration::from_secs(20);

/// From the drone's start to its first heartbeat, at most.
const UNTIL_PLACEABLE: Duration = Duration::from_secs(30);

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
    #[arg(long, env = "JETWAY_API", default_value = "127.0.0.1:8080")]
    api: SocketAddr,
    /// Where browsers connect
    #[arg(long, env = "JETWAY_PROXY", default_value = "127.0.0.1:9090")]
    proxy: SocketAddr,
    /// Leave sessions running at the end; the next start adopts them
    #[arg(long, env = "JETWAY_KEEP")]
    keep: bool,
    /// Without the demo and its image
    #[arg(long, env = "JETWAY_NO_DEMO")]
    no_demo: bool,
    /// Addresses for sessions, as CIDR; by default the first free /18 in 10.64.0.0/10
    #[arg(long, env = "JETWAY_SESSION_SUBNET", value_parser = parse_cidr)]
    session_subnet: Option<(Ipv4Addr, u8)>,
    /// Host directory below which specs may mount
    #[arg(long, env = "JETWAY_MOUNT_BASE")]
    mount_base: Option<PathBuf>,
    /// Docker networks that specs may name, separated by commas
    #[arg(long, env = "JETWAY_NETWORKS", value_delimiter = ',')]
    networks: Vec<String>,
    /// Network namespaces to have ready, in which containers start in a third of the time; 0: none
    #[arg(long, env = "JETWAY_SANDBOXES", default_value_t = 2, value_parser = clap::value_parser!(u32).range(..=256))]
    sandboxes: u32,
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
    let (db, postgres, _lock) = match &arguments.db {
        Some(db) => (db.clone(), None, Some(lock)),
        None => {
            let postgres =
                LocalPostgres::start_locked(&data_dir, lock).await.context("cannot start Postgres")?;
            if let Some(note) = &postgres.note {
                println!("note: {note}");
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
    let demo = demo::Demo::new(api, http.clone());
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
    println!("\nstopping{}", if arguments.keep { "; sessions stay" } else { "" });
    proxy_life.stop().await;
    if !arguments.keep {
        let left = drone.stop_sessions(STOP_SESSIONS).await;
        if left > 0 {
            println!("{left} sessions did not end in time; the next start takes them up again");
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
        hold: Duration::from_secs(60),
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
    println!();
    if !arguments.no_demo {
        println!("  demo   http://{}/demo   open it in two windows", demo.api());
    }
    println!("  api    http://{}/ctrl/connect", demo.api());
    println!("  proxy  http://localhost:{}", proxy.port());
    println!();
    if let Some(image) = demo.image() {
        println!("  try    bin/jetway connect my-room --image {image} --max-idle-seconds 5");
        println!();
    }
    println!("jetway is ready");
}

fn drone_config(
    arguments: &DevArguments,
    data_dir: &Path,
    run_dir: PathBuf,
    init_executable: PathBuf,
    secret: Secret,
    controllers: Vec<String>,
) -> anyhow::Result<jetway_drone::Config> {
    let data_dir = data_dir.join("drone");
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
        mount_base: arguments.mount_base.clone(),
        allowed_networks: arguments.networks.clone(),
        backends_max: 200,
        cpus: None,
        memory_bytes: None,
        sandboxes: arguments.sandboxes,
        calm: jetway_drone::Calm::FOR_A_BROWSER_HERE,
        warm_memory_bytes: None,
        helper_image: None,
        container_runtime: None,
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
