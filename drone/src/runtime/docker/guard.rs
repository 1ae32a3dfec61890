//! The host's own ports, and each session to all others, closed to the sessions' network: by our
//! firewall table where this process may make it, else by a one-shot container of our image that
//! may, else not at all, which is said and not hidden. Not its business: traffic from sessions to
//! elsewhere.

use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use jetway_service::backoff::jittered;
use rustix::io::Errno;

use super::config::DockerConfig;
use super::engine::Engine;
use super::{guard_helper, names, network, nft};

/// A firewall's reload may take our table with it; it is looked for this often.
const RECHECK: Duration = Duration::from_secs(60);
const PROGRAM_DEADLINE: Duration = Duration::from_secs(10);

/// Whether the host's own ports are closed to sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardStatus {
    Closed(Means),
    /// Sessions can reach what listens on the host. The reason says what to do.
    Open(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    Netlink,
    Iptables,
    Helper,
}

impl GuardStatus {
    /// What an operator should know, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let GuardStatus::Open(_) = self {
            warnings.push(format!("the host's own ports are {self}"));
        }
        let is_here = !matches!(self, GuardStatus::Closed(Means::Helper));
        if is_here && !network::is_bridge_filtered() {
            warnings.push(
                "sessions may reach each other: net.bridge.bridge-nf-call-iptables is not 1 (modprobe br_netfilter)"
                    .to_owned(),
            );
        }
        warnings
    }
}

impl fmt::Display for GuardStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GuardStatus::Closed(Means::Netlink) => f.write_str("closed by a firewall table"),
            GuardStatus::Closed(Means::Iptables) => f.write_str("closed by iptables"),
            GuardStatus::Closed(Means::Helper) => f.write_str("closed by a helper container"),
            GuardStatus::Open(why) => write!(
                f,
                "open: sessions can reach what listens on this host, and each other where the engine has \"iptables\": false ({why})"
            ),
        }
    }
}

/// What is asked of the firewall, by us or by the helper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    pub table: String,
    pub bridge: String,
}

#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("NET_ADMIN is missing")]
    NotPermitted,
    #[error("this kernel has no nf_tables")]
    Unsupported,
    #[error("{0}")]
    Failed(String),
}

impl Guard {
    pub fn of(config: &DockerConfig) -> Self {
        Self { table: names::firewall_table(config.drone), bridge: names::bridge(config.drone) }
    }

    /// Closes the ports by the first means that works.
    pub async fn close(&self, engine: &Engine, config: &DockerConfig) -> GuardStatus {
        let outcome = match self.is_bridge_here() {
            true => self.close_here().await,
            false => {
                Err(GuardError::Failed("the network is in another namespace than this process".to_owned()))
            }
        };
        let here = match outcome {
            Ok(means) => return GuardStatus::Closed(means),
            Err(error) => error,
        };
        match guard_helper::run(engine, config, self, "close").await {
            Ok(()) => GuardStatus::Closed(Means::Helper),
            Err(there) => {
                GuardStatus::Open(format!("{here}; {there}; give the drone NET_ADMIN or a helper image"))
            }
        }
    }

    /// Takes away what [`Guard::close`] made.
    pub async fn open(
        &self,
        engine: &Engine,
        config: &DockerConfig,
        status: &GuardStatus,
    ) -> Result<(), GuardError> {
        match status {
            GuardStatus::Open(_) => Ok(()),
            GuardStatus::Closed(Means::Netlink) => self.remove_table().await,
            GuardStatus::Closed(Means::Iptables) => self.remove_iptables_rules().await,
            GuardStatus::Closed(Means::Helper) => {
                guard_helper::run(engine, config, self, "open").await.map_err(GuardError::Failed)
            }
        }
    }

    /// Puts the table back whenever somebody flushed it. Ends never.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(jittered(RECHECK)).await;
            let table = self.table.clone();
            if let Ok(true) = blocking(move || nft::is_present(&table)).await {
                continue;
            }
            match self.make_table().await {
                Ok(()) => tracing::warn!(table = self.table, "the firewall table was gone and is back"),
                Err(error) => tracing::error!(table = self.table, %error, "the firewall table is gone"),
            }
        }
    }

    /// In this process's network namespace, with its capabilities.
    pub async fn close_here(&self) -> Result<Means, GuardError> {
        match self.make_table().await {
            Ok(()) => Ok(Means::Netlink),
            Err(GuardError::Unsupported) => {
                for rule in iptables_rules(&self.bridge) {
                    // -C asks whether the rule is there already.
                    if iptables("-C", &rule).await.is_err() {
                        iptables("-I", &rule).await?;
                    }
                }
                Ok(Means::Iptables)
            }
            Err(error) => Err(error),
        }
    }

    pub async fn open_here(&self) -> Result<(), GuardError> {
        match self.remove_table().await {
            Err(GuardError::Unsupported) => self.remove_iptables_rules().await,
            outcome => outcome,
        }
    }

    async fn make_table(&self) -> Result<(), GuardError> {
        let Guard { table, bridge } = self.clone();
        blocking(move || nft::apply(&table, &bridge)).await
    }

    async fn remove_table(&self) -> Result<(), GuardError> {
        let table = self.table.clone();
        blocking(move || nft::remove(&table)).await
    }

    async fn remove_iptables_rules(&self) -> Result<(), GuardError> {
        for rule in iptables_rules(&self.bridge) {
            iptables("-D", &rule).await?;
        }
        Ok(())
    }

    fn is_bridge_here(&self) -> bool {
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
        socket.is_ok_and(|socket| rustix::net::netdevice::name_to_index(&socket, &self.bridge).is_ok())
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Errno> + Send + 'static,
) -> Result<T, GuardError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Errno::PERM | Errno::ACCESS)) => Err(GuardError::NotPermitted),
        Ok(Err(Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::NOENT | Errno::AFNOSUPPORT)) => {
            Err(GuardError::Unsupported)
        }
        Ok(Err(errno)) => Err(GuardError::Failed(format!("nf_tables: {errno}"))),
        Err(error) => Err(GuardError::Failed(error.to_string())),
    }
}

/// What [`nft`] says, for kernels without nf_tables: a chain, and a rule in it.
fn iptables_rules(bridge: &str) -> [(&'static str, Vec<&str>); 3] {
    let answers = "ESTABLISHED,RELATED";
    [
        ("INPUT", vec!["-i", bridge, "-m", "conntrack", "!", "--ctstate", answers, "-j", "DROP"]),
        ("FORWARD", vec!["-i", bridge, "-o", bridge, "-j", "DROP"]),
        ("FORWARD", vec!["-o", bridge, "-m", "conntrack", "!", "--ctstate", answers, "-j", "DROP"]),
    ]
}

async fn iptables(action: &str, (chain, rule): &(&str, Vec<&str>)) -> Result<(), GuardError> {
    let run = tokio::process::Command::new("iptables")
        .args(["-w", "5", action, chain])
        .args(rule)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PROGRAM_DEADLINE, run).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            Err(GuardError::Failed(format!("iptables: {}", String::from_utf8_lossy(&output.stderr).trim())))
        }
        Ok(Err(error)) => {
            Err(GuardError::Failed(format!("no nf_tables in this kernel, and iptables: {error}")))
        }
        Err(_) => Err(GuardError::Failed("iptables did not end".to_owned())),
    }
}
