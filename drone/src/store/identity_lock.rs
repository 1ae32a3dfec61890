//! One agent an identity on one host. A copied data directory has a lock file of its own, and two agents of one identity
//! on one engine would end each other's sessions. A copy on another host is the controllers' to refuse.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use jetway_protocol::ids::{BootId, DroneId};

/// Held as long as this value lives, and given back by the kernel however the process ends.
#[derive(Debug)]
pub struct IdentityLock {
    /// `None`: a stranger has the name, which keeps nobody from starting.
    _listener: Option<UnixListener>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Taken;

impl IdentityLock {
    /// A name among the abstract sockets, which are those of the network namespace: it needs no directory that every agent
    /// of a host would have to share. With the boot id in it, a host that is played by a namespace is another host.
    pub fn take(id: DroneId, boot_id: BootId) -> Result<Self, Taken> {
        let name = format!("jetway-drone-{id}-{boot_id}");
        let Ok(address) = SocketAddr::from_abstract_name(name) else { return Ok(Self { _listener: None }) };
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Self { _listener: Some(listener) }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_one_of_us(&address) => Err(Taken),
            Err(error) => {
                tracing::warn!(%error, "whether another agent has this identity cannot be told");
                Ok(Self { _listener: None })
            }
        }
    }
}

/// Any process of the host could have taken the name; root, or who runs as we do, is believed.
fn is_one_of_us(address: &SocketAddr) -> bool {
    let Ok(stream) = UnixStream::connect_addr(address) else { return false };
    let Ok(peer) = rustix::net::sockopt::socket_peercred(&stream) else { return false };
    peer.uid.is_root() || peer.uid == rustix::process::geteuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_one_agents_of_a_host_until_that_one_is_gone() {
        let (id, boot_id) = (DroneId::random(), BootId::random());
        let first = IdentityLock::take(id, boot_id).unwrap();
        assert_eq!(IdentityLock::take(id, boot_id).unwrap_err(), Taken);
        assert!(IdentityLock::take(id, BootId::random()).is_ok(), "another host");
        assert!(IdentityLock::take(DroneId::random(), boot_id).is_ok(), "another drone");
        drop(first);
        assert!(IdentityLock::take(id, boot_id).is_ok());
    }
}
