//! `jetway controller`, `jetway drone`, `jetway proxy`: flags into settings, a stop in order on SIGTERM or SIGINT.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use jetway_drone::Calm;
use jetway_drone::runtime::docker::config::PERCENT_DEFAULT;
use jetway_drone::runtime::docker::{contact, host_paths};
use jetway_protocol::ids::{ClusterName, DroneName, PoolName};
use jetway_protocol::lease::{LENGTH_DEFAULT, LeaseTerms};
use jetway_protocol::secret::Secret;
use jetway_proxy::{HOLD, Share};
use jetway_service::files;
use jetway_service::lifecycle::Lifecycle;
use jetway_service::secrets::{self, Source};
use jetway_service::telemetry;
use tracing::field::display;

use super::acme::AcmeArguments;
use super::role::Role;
use super::signals::StopSignals;
use super::tls::{self, TlsArguments};
use crate::dev::places;

#[derive(Debug, Args)]
struct SecretArguments {
    /// What the components of one installation share: 32 characters or more. Better in a file
    #[arg(long, env = "JETWAY_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// A file with the secret
    #[arg(long, env = "JETWAY_SECRET_FILE")]
    secret_file: Option<PathBuf>,
}

impl SecretArguments {
    fn read(&self) -> anyhow::Result<Secret> {
        Ok(secrets::installation_secret(self.secret.as_deref(), self.secret_file.as_deref())?)
    }
}

#[derive(Debug, Args)]
pub struct ControllerArguments {
    /// Postgres, as a URL: postgres://user:password@host/database
    #[arg(long, env = "JETWAY_DB", hide_env_values = true)]
    db: String,
    /// A file with the password, for a URL that has none
    #[arg(long, env = "JETWAY_DB_PASSWORD_FILE")]
    db_password_file: Option<PathBuf>,
    /// Where the API listens
    #[arg(long, env = "JETWAY_LISTEN", default_value = Role::Controller.listen())]
    listen: SocketAddr,
    /// The default cluster: the host (and port) by which browsers reach the proxies
    #[arg(long, env = "JETWAY_CLUSTER")]
    cluster: ClusterName,
    /// The bearer key of the API; needed where it listens beyond loopback
    #[arg(long, env = "JETWAY_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// A file with the API key
    #[arg(long, env = "JETWAY_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Serve the API beyond loopback without a key
    #[arg(long, env = "JETWAY_INSECURE")]
    insecure: bool,
    /// How browsers reach this API, for `status_url`
    #[arg(long, env = "JETWAY_PUBLIC_URL")]
    public_url: Option<String>,
    /// How long a drone that is cut off keeps its sessions, and how long a dead host's keys are not given away: 600, 10m
    #[arg(long, env = "JETWAY_LEASE_SECONDS", default_value = LENGTH_DEFAULT.as_secs().to_string())]
    lease_seconds: LeaseTerms,
    /// Keep slots ready of whatever is asked for again and again; false: of declared pools alone
    #[arg(long, env = "JETWAY_WARM_LEARN", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    warm_learn: bool,
    /// Seconds for which a host of a session in the host form stays its key's after the session's end
    #[arg(long, env = "JETWAY_HOST_HOLD_SECONDS", default_value_t = jetway_controller::HOST_HOLD.as_secs(), value_parser = clap::value_parser!(u64).range(..=31_622_400))]
    host_hold_seconds: u64,
    #[command(flatten)]
    acme: AcmeArguments,
    #[command(flatten)]
    secret: SecretArguments,
}

pub async fn controller(arguments: ControllerArguments) -> anyhow::Result<ExitCode> {
    telemetry::start("info");
    let (text, file) = (arguments.api_key.as_deref(), arguments.api_key_file.as_deref());
    let api_key = Source { variable: "JETWAY_API_KEY", text, file }.read()?;
    let file = arguments.db_password_file.as_deref();
    let db_password = Source { variable: "JETWAY_DB_PASSWORD", text: None, file }.read()?;
    let lifecycle = Lifecycle::new();
    let config = jetway_controller::Config {
        db: arguments.db,
        db_password,
        listen: arguments.listen,
        cluster: arguments.cluster,
        secret: arguments.secret.read()?,
        api_key,
        insecure: arguments.insecure,
        public_url: arguments.public_url,
        lease: Some(arguments.lease_seconds),
        warm_learn: arguments.warm_learn,
        acme: arguments.acme.read()?,
        host_hold: Duration::from_secs(arguments.host_hold_seconds),
        extra_routes: None,
    };
    let signals = StopSignals::watch()?;
    let controller =
        match signals.or_stopped(&lifecycle, jetway_controller::start(config, lifecycle.clone())).await {
            Some(controller) => controller?,
            None => return Ok(ExitCode::SUCCESS),
        };
    tracing::info!(address = %controller.address, installation = %controller.installation, "controller is ready");
    until_stopped(signals, lifecycle, Duration::ZERO).await
}

#[derive(Debug, Args)]
pub struct DroneArguments {
    /// Controllers, separated by commas
    #[arg(long = "controller", env = "JETWAY_CONTROLLER", value_delimiter = ',', required = true)]
    controllers: Vec<String>,
    /// Where controllers and proxies reach this drone
    #[arg(long, env = "JETWAY_LISTEN", default_value = Role::Drone.listen())]
    listen: SocketAddr,
    /// The address that others use for it, where it is not the one it listens on
    #[arg(long, env = "JETWAY_ADVERTISE")]
    advertise: Option<String>,
    /// Its name, unique in the installation
    #[arg(long, env = "JETWAY_NAME")]
    name: DroneName,
    /// Its identity and journal; one drone a directory
    #[arg(long, env = "JETWAY_DATA_DIR", default_value = "/var/lib/jetway/drone")]
    data_dir: PathBuf,
    /// Sockets to the sessions' inits: a short path, on tmpfs
    #[arg(long, env = "JETWAY_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// The init that runs in each container; by default the one beside this executable
    #[arg(long, env = "JETWAY_INIT")]
    init: Option<PathBuf>,
    /// Its cluster, where it is not the controller's default
    #[arg(long, env = "JETWAY_CLUSTER")]
    cluster: Option<ClusterName>,
    /// Its pool; specs name one with `spawn_config.pool`
    #[arg(long, env = "JETWAY_POOL", default_value = "")]
    pool: PoolName,
    /// Addresses for sessions, as CIDR; by default the first free /18 in 10.64.0.0/10
    #[arg(long, env = "JETWAY_SESSION_SUBNET", value_parser = parse_cidr)]
    session_subnet: Option<(std::net::Ipv4Addr, u8)>,
    /// Host directory below which specs may mount
    #[arg(long, env = "JETWAY_MOUNT_BASE")]
    mount_base: Option<PathBuf>,
    /// Docker networks that specs may name, separated by commas
    #[arg(long, env = "JETWAY_NETWORKS", value_delimiter = ',')]
    networks: Vec<String>,
    /// Sessions at one time, at most
    #[arg(long, env = "JETWAY_BACKENDS_MAX", default_value_t = 1000)]
    backends_max: u32,
    /// CPUs for sessions; all by default
    #[arg(long, env = "JETWAY_CPUS")]
    cpus: Option<f64>,
    /// Bytes of memory for sessions; all by default
    #[arg(long, env = "JETWAY_MEMORY_BYTES")]
    memory_bytes: Option<i64>,
    /// Network namespaces to have ready, in which containers start in a third of the time; 0: none
    #[arg(long, env = "JETWAY_SANDBOXES", default_value_t = 4, value_parser = clap::value_parser!(u32).range(..=256))]
    sandboxes: u32,
    /// Bytes of memory for slots that are kept ready because they are likely to be needed; a tenth of the drone's by default.
    /// What an operator has declared comes before it, and may use half
    #[arg(long, env = "JETWAY_WARM_MEMORY_BYTES", value_parser = clap::value_parser!(i64).range(0..))]
    warm_memory_bytes: Option<i64>,
    /// The engine's runtime for sessions (runc, runsc, …)
    #[arg(long, env = "JETWAY_CONTAINER_RUNTIME")]
    container_runtime: Option<String>,
    /// How full the engine's disk may be, in percent, before images that this drone pulled and nobody needs are removed; 0: never
    #[arg(long, env = "JETWAY_IMAGE_GC_PERCENT", default_value_t = PERCENT_DEFAULT, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_percent: u8,
    /// Jetway's own image, to close the host's ports with where this process may not
    #[arg(long, env = "JETWAY_HELPER_IMAGE")]
    helper_image: Option<String>,
    /// HERE=THERE, separated by commas: a directory here and on the engine's host, for a drone in a container; its
    /// binds and volumes are known without
    #[arg(long = "host-path", env = "JETWAY_HOST_PATH", value_delimiter = ',', value_parser = host_paths::parse)]
    host_paths: Vec<(PathBuf, PathBuf)>,
    #[command(flatten)]
    secret: SecretArguments,
}

pub async fn drone(arguments: DroneArguments) -> anyhow::Result<ExitCode> {
    telemetry::start("info");
    files::raise_limit();
    if arguments.advertise.is_none() && arguments.listen.ip().is_unspecified() {
        return Err(anyhow!(
            "--listen {} is no address to reach this drone at: name one with --advertise",
            arguments.listen
        ));
    }
    let lifecycle = Lifecycle::new();
    let (run_dir, own_run_dir) = match arguments.run_dir {
        Some(run_dir) => (run_dir, None),
        None => {
            let run_dir = places::default_run_dir(&arguments.data_dir)?;
            (run_dir.clone(), Some(run_dir))
        }
    };
    let config = jetway_drone::Config {
        controllers: arguments.controllers,
        listen: arguments.listen,
        advertise: arguments.advertise,
        name: arguments.name,
        cluster: arguments.cluster,
        pool: arguments.pool,
        run_dir,
        data_dir: arguments.data_dir,
        init_executable: places::init_executable(arguments.init)?,
        session_subnet: arguments.session_subnet,
        mount_base: arguments.mount_base,
        allowed_networks: arguments.networks,
        backends_max: arguments.backends_max,
        cpus: arguments.cpus,
        memory_bytes: arguments.memory_bytes,
        sandboxes: arguments.sandboxes,
        calm: Calm::default(),
        warm_memory_bytes: arguments.warm_memory_bytes,
        helper_image: arguments.helper_image,
        container_runtime: arguments.container_runtime,
        names_by_key: false,
        image_gc_percent: arguments.image_gc_percent,
        host_paths: arguments.host_paths,
        engine_patience: contact::PATIENCE,
        secret: arguments.secret.read()?,
    };
    let signals = StopSignals::watch()?;
    let drone = match signals.or_stopped(&lifecycle, jetway_drone::start(config, lifecycle.clone())).await {
        Some(drone) => drone?,
        None => return Ok(ExitCode::SUCCESS),
    };
    tracing::info!(address = %drone.address, drone = %drone.id, "drone is ready");
    let stopped = until_refused_or_stopped(drone.refused(), signals, lifecycle, Duration::ZERO).await;
    drone.leave_engine().await;
    if let Some(run_dir) = own_run_dir {
        places::leave_run_dir(&run_dir);
    }
    stopped
}

#[derive(Debug, Args)]
pub struct ProxyArguments {
    /// Controllers, separated by commas
    #[arg(long = "controller", env = "JETWAY_CONTROLLER", value_delimiter = ',', required = true)]
    controllers: Vec<String>,
    /// Where browsers connect
    #[arg(long, env = "JETWAY_LISTEN", default_value = Role::Proxy.listen())]
    listen: SocketAddr,
    /// Its name in lists; by default the host's
    #[arg(long, env = "JETWAY_NAME")]
    name: Option<String>,
    /// Its cluster, where it is not the controller's default
    #[arg(long, env = "JETWAY_CLUSTER")]
    cluster: Option<ClusterName>,
    /// Seconds that a request waits for its session to start
    #[arg(long, env = "JETWAY_HOLD_SECONDS", default_value_t = HOLD.as_secs())]
    hold_seconds: u64,
    /// Where a request for / is sent
    #[arg(long, env = "JETWAY_ROOT_REDIRECT_URL")]
    root_redirect_url: Option<String>,
    /// Balancers and proxies in front of this one, as addresses or CIDR, separated by commas: what they say of a client is
    /// believed; what others say is replaced
    #[arg(long, env = "JETWAY_TRUSTED_FORWARDERS", value_delimiter = ',')]
    trusted_forwarders: Vec<jetway_proxy::Network>,
    /// Connections from the trusted forwarders begin with a PROXY header (version 1 or 2)
    #[arg(long, env = "JETWAY_PROXY_PROTOCOL", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    proxy_protocol: bool,
    /// Seconds from SIGTERM to the end: WebSockets live on, and are then told to come back (1012). Whatever stops this process must
    /// wait for longer. 0: at once, after the answers of requests in flight
    #[arg(long, env = "JETWAY_DRAIN_SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=86_400))]
    drain_seconds: u64,
    /// Connections that one client may have open at a time; 0: as many as there are. A client is an IPv4 address or an IPv6
    /// /64; trusted forwarders are none
    #[arg(long, env = "JETWAY_CLIENT_CONNECTIONS", default_value_t = 0)]
    client_connections: u32,
    /// Requests that one client may make in a second, on average; 0: no limit
    #[arg(long, env = "JETWAY_CLIENT_REQUESTS_PER_SECOND", default_value_t = 0)]
    client_requests_per_second: u32,
    /// WebSockets and requests that may be open at a time with one token; 0: no limit
    #[arg(long, env = "JETWAY_TOKEN_CONNECTIONS", default_value_t = 0)]
    token_connections: u32,
    /// Requests that may be made in a second with one token, on average; 0: no limit
    #[arg(long, env = "JETWAY_TOKEN_REQUESTS_PER_SECOND", default_value_t = 0)]
    token_requests_per_second: u32,
    /// Seconds that an HTTP/1.1 request's body may pause; 0: as long as it likes
    #[arg(long, env = "JETWAY_BODY_PAUSE_SECONDS", default_value_t = 60)]
    body_pause_seconds: u64,
    /// A file with HTML that the pages for people begin with: a name, a logo as inline SVG, a style. Nothing is loaded from elsewhere
    #[arg(long, env = "JETWAY_BRAND_FILE")]
    brand_file: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsArguments,
    /// Share the port with other proxies, such as the one that takes this one's place
    #[arg(long, env = "JETWAY_REUSE_PORT", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    reuse_port: bool,
    #[command(flatten)]
    secret: SecretArguments,
}

pub async fn proxy(arguments: ProxyArguments) -> anyhow::Result<ExitCode> {
    telemetry::start("info");
    let open_files = files::raise_limit();
    let lifecycle = Lifecycle::new();
    let drain = Duration::from_secs(arguments.drain_seconds);
    let config = jetway_proxy::Config {
        controllers: arguments.controllers,
        listen: arguments.listen,
        name: arguments.name.unwrap_or_else(places::host_name),
        cluster: arguments.cluster,
        secret: arguments.secret.read()?,
        hold: Duration::from_secs(arguments.hold_seconds),
        root_redirect: arguments.root_redirect_url,
        trusted_forwarders: arguments.trusted_forwarders,
        proxy_protocol: arguments.proxy_protocol,
        drain,
        acme_dns: arguments.tls.acme_dns(),
        tls: arguments.tls.read()?,
        brand: tls::brand(arguments.brand_file.as_deref())?,
        reuse_port: arguments.reuse_port,
        client: Share {
            open: NonZeroU32::new(arguments.client_connections),
            per_second: NonZeroU32::new(arguments.client_requests_per_second),
        },
        token: Share {
            open: NonZeroU32::new(arguments.token_connections),
            per_second: NonZeroU32::new(arguments.token_requests_per_second),
        },
        body_pause: Some(Duration::from_secs(arguments.body_pause_seconds)).filter(|pause| !pause.is_zero()),
    };
    let signals = StopSignals::watch()?;
    let proxy = jetway_proxy::start(config, lifecycle.clone()).await?;
    let (https, dns) = (proxy.tls_address.map(display), proxy.dns_address.map(display));
    tracing::info!(address = %proxy.address, https, dns, proxy = %proxy.id, open_files, "proxy is ready");
    until_refused_or_stopped(proxy.refused(), signals, lifecycle, drain).await
}

/// Where no controller will ever take this process, it is not to look healthy.
async fn until_refused_or_stopped(
    refused: impl Future<Output = String>,
    signals: StopSignals,
    lifecycle: Lifecycle,
    drain: Duration,
) -> anyhow::Result<ExitCode> {
    tokio::select! {
        why = refused => {
            lifecycle.stop().await;
            Err(anyhow!(why))
        }
        _ = signals.first() => until_stopped(signals, lifecycle, drain).await,
    }
}

async fn until_stopped(
    signals: StopSignals,
    lifecycle: Lifecycle,
    drain: Duration,
) -> anyhow::Result<ExitCode> {
    let signal = signals.first().await;
    tracing::info!(signal, "stopping");
    if lifecycle.stop_after(drain).await {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(anyhow!("some tasks did not end in time"))
    }
}

/// An IPv4 network as `address/prefix`.
pub fn parse_cidr(text: &str) -> Result<(std::net::Ipv4Addr, u8), String> {
    let rule = "an IPv4 network such as 10.64.0.0/18";
    let (address, prefix) = text.split_once('/').ok_or(rule)?;
    let address = address.parse().map_err(|_| rule)?;
    let prefix = prefix.parse().map_err(|_| rule)?;
    // A /29 has room for a gateway and five sessions; a prefix below 8 is surely a slip.
    if !(8..=29).contains(&prefix) {
        return Err("the prefix must be 8 to 29".to_owned());
    }
    Ok((address, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cidr_is_an_address_and_a_prefix() {
        assert_eq!(parse_cidr("10.64.0.0/18"), Ok(("10.64.0.0".parse().unwrap(), 18)));
        for bad in ["", "10.64.0.0", "10.64.0.0/33", "10.64.0.0/30", "x/18", "fd00::/64"] {
            assert!(parse_cidr(bad).is_err(), "{bad:?}");
        }
    }
}
