//! HAProxy and nginx as reverse proxies of one application, each as its own documentation has it for WebSockets.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use crate::harness::eventually;
use crate::harness::processes::Process;

const START_MAX: Duration = Duration::from_secs(10);
/// Tunnels that each is set up for: two files each, within 20,000.
const TUNNELS_MAX: usize = 9000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Web {
    HaProxy,
    Nginx,
}

/// One that runs.
pub struct Running {
    pub name: &'static str,
    pub address: SocketAddr,
    process: Process,
    directory: PathBuf,
}

impl Web {
    fn name(self) -> &'static str {
        match self {
            Web::HaProxy => "HAProxy",
            Web::Nginx => "nginx",
        }
    }

    fn program(self) -> Option<PathBuf> {
        let path = PathBuf::from(match self {
            Web::HaProxy => "/usr/sbin/haproxy",
            Web::Nginx => "/usr/sbin/nginx",
        });
        path.is_file().then_some(path)
    }

    fn settings(self, listen: SocketAddr, backend: SocketAddr, directory: &str) -> String {
        match self {
            Web::HaProxy => format!(
                "global\n  maxconn {TUNNELS_MAX}\n\
                 defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  timeout tunnel 1h\n\
                 frontend front\n  bind {listen}\n  default_backend back\n\
                 backend back\n  server one {backend}\n"
            ),
            Web::Nginx => format!(
                "daemon off; worker_processes 2; user root; pid {directory}/pid; error_log stderr;\n\
                 events {{ worker_connections {}; }}\n\
                 http {{ access_log off;\n\
                   map $http_upgrade $connection_upgrade {{ default upgrade; \"\" \"\"; }}\n\
                   upstream back {{ server {backend}; keepalive 64; }}\n\
                   server {{ listen {listen}; keepalive_requests 1000000000; location / {{ proxy_pass http://back; proxy_http_version 1.1;\n\
                     proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;\n\
                     proxy_read_timeout 1h; proxy_send_timeout 1h; }} }} }}\n",
                2 * TUNNELS_MAX
            ),
        }
    }

    /// `None`: it is not installed.
    pub async fn start(self, backend: SocketAddr) -> anyhow::Result<Option<Running>> {
        let Some(program) = self.program() else { return Ok(None) };
        let directory = std::env::temp_dir().join(format!("jetway-bench-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&directory)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = directory.join("conf");
        std::fs::write(&file, self.settings(address, backend, &directory.display().to_string()))?;
        let mut command = Command::new(program);
        match self {
            Web::HaProxy => command.arg("-db").arg("-f").arg(&file),
            Web::Nginx => command.arg("-c").arg(&file).arg("-e").arg("stderr"),
        };
        let process = Process::start(&directory.join("log"), &mut command)?;
        let running = Running { name: self.name(), address, process, directory };
        eventually(&format!("{} listens", self.name()), START_MAX, async || {
            TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
        })
        .await
        .with_context(|| std::fs::read_to_string(running.directory.join("log")).unwrap_or_default())?;
        Ok(Some(running))
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub async fn end(mut self) -> anyhow::Result<()> {
        // In nginx SIGTERM is the fast way, and ends its workers.
        let _status = self.process.stop(Signal::SIGTERM).await?;
        std::fs::remove_dir_all(&self.directory)?;
        Ok(())
    }
}
