//! Who is where: the parts of the installation under test, the hosts (network namespaces) that they stand on, their
//! addresses and directories. Every name begins with `jcx`, so that what is ours can be told from what is not.
//!
//! ```text
//! c1 controller 1 ─┐                    ┌─ d1 drone 1, engine 1 (live-restore), proxy 1
//! c2 controller 2 ─┼── wan: a router, ──┼─ d2 drone 2, engine 2
//! pg Postgres ─────┘   driver, clients  ├─ d3 drone 3, engine 3
//!                                       └─ p2 proxy 2
//! ```

use std::fmt;
use std::path::PathBuf;

/// What is put below `/tmp` and `/dev/shm`.
pub const DIRECTORY: &str = "jcx";
/// The router, where the driver and its clients are.
pub const WAN: &str = "jcx-wan";
/// Cgroup of every container of ours, so that no process of a session can hide.
pub const CGROUP: &str = "jcx";
/// The router's own address; the relay listens there.
pub const RELAY: &str = "10.250.0.1";

pub const CONTROLLER_PORT: u16 = 8080;
pub const DRONE_PORT: u16 = 7070;
pub const PROXY_PORT: u16 = 9090;
pub const POSTGRES_PORT: u16 = 5432;

pub const CONTROLLERS: u8 = 2;
pub const DRONES: u8 = 3;
pub const PROXIES: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    Controller(u8),
    Postgres,
    Drone(u8),
    /// Proxy 2 stands alone; proxy 1 is on drone 1's host and dials its containers itself.
    Proxy2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Controller(u8),
    Drone(u8),
    Proxy(u8),
    Postgres,
    /// The Docker daemon of a drone's host.
    Engine(u8),
}

impl Host {
    pub fn all() -> Vec<Self> {
        let mut all: Vec<_> = (1..=CONTROLLERS).map(Self::Controller).collect();
        all.push(Self::Postgres);
        all.extend((1..=DRONES).map(Self::Drone));
        all.push(Self::Proxy2);
        all
    }

    fn number(self) -> u8 {
        match self {
            Self::Controller(number) => number,
            Self::Postgres => 3,
            Self::Drone(number) => 3 + number,
            Self::Proxy2 => 7,
        }
    }

    pub fn address(self) -> String {
        format!("10.250.{}.2", self.number())
    }

    pub fn gateway(self) -> String {
        format!("10.250.{}.1", self.number())
    }

    pub fn namespace(self) -> String {
        format!("jcx-{self}")
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller(number) => write!(f, "c{number}"),
            Self::Postgres => f.write_str("pg"),
            Self::Drone(number) => write!(f, "d{number}"),
            Self::Proxy2 => f.write_str("p2"),
        }
    }
}

impl Part {
    /// In the order in which they are started.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Postgres];
        all.extend((1..=DRONES).map(Self::Engine));
        all.extend((1..=CONTROLLERS).map(Self::Controller));
        all.extend((1..=DRONES).map(Self::Drone));
        all.extend((1..=PROXIES).map(Self::Proxy));
        all
    }

    pub fn host(self) -> Host {
        match self {
            Self::Controller(number) => Host::Controller(number),
            Self::Drone(number) | Self::Engine(number) => Host::Drone(number),
            Self::Proxy(1) => Host::Drone(1),
            Self::Proxy(_) => Host::Proxy2,
            Self::Postgres => Host::Postgres,
        }
    }

    pub fn class(self) -> &'static str {
        match self {
            Self::Controller(_) => "controller",
            Self::Drone(_) => "drone",
            Self::Proxy(_) => "proxy",
            Self::Postgres => "postgres",
            Self::Engine(_) => "engine",
        }
    }

    /// Where it can be reached; an engine only by its socket.
    pub fn address(self) -> String {
        let port = match self {
            Self::Controller(_) => CONTROLLER_PORT,
            Self::Drone(_) | Self::Engine(_) => DRONE_PORT,
            Self::Proxy(_) => PROXY_PORT,
            Self::Postgres => POSTGRES_PORT,
        };
        format!("{}:{port}", self.host().address())
    }

    pub fn directory(self) -> PathBuf {
        root().join(self.to_string())
    }

    pub fn log(self) -> PathBuf {
        root().join("logs").join(format!("{self}.log"))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller(number) | Self::Drone(number) | Self::Proxy(number) | Self::Engine(number) => {
                write!(f, "{}{number}", self.class())
            }
            Self::Postgres => f.write_str("postgres"),
        }
    }
}

pub fn root() -> PathBuf {
    std::env::temp_dir().join(DIRECTORY)
}

/// Sockets and leases of a drone: a short path, on tmpfs where there is one.
pub fn run_dir(drone: u8) -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    let base = if shared.is_dir() { shared.join(DIRECTORY) } else { root().join("r") };
    base.join(format!("d{drone}"))
}

/// Where the containers of a drone keep their heartbeats, each in a directory of its own.
pub fn beats_dir(drone: u8) -> PathBuf {
    root().join(format!("mounts{drone}")).join("beats")
}

/// A file a key, which every session of the run can lock.
pub fn locks_dir() -> PathBuf {
    root().join("keys")
}

pub fn engine_socket(drone: u8) -> PathBuf {
    Part::Engine(drone).directory().join("docker.sock")
}
