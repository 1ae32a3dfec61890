//! Settings of every TCP connection that we accept or make.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 6;

/// No delay for small packets, and a dead peer is noticed within two minutes. A socket that refuses has failed
/// already; its first read says so.
pub fn prepare(stream: &TcpStream) {
    let set = || -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
        Ok(())
    };
    if let Err(reason) = set() {
        tracing::debug!(%reason, "a socket takes no settings");
    }
}
