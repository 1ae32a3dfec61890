//! The sockets that clients come in by.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use crate::config::StartError;

/// Connections that have come and are not accepted yet, at most, as far as the kernel allows them.
const BACKLOG: u32 = 4096;

pub fn bind(address: SocketAddr, reuse_port: bool) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen_error = |source| StartError::Listen { address, source };
    let listener = listen(address, reuse_port).map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    Ok((listener, address))
}

fn listen(address: SocketAddr, reuse_port: bool) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
