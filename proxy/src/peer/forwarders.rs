//! Trusted forwarders: the networks of balancers and proxies in front of this one. Their word on a
//! client's address is believed; any other client's word is replaced.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// An IPv4 or IPv6 network, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Without the bits that the prefix does not cover.
    first: IpAddr,
    prefix: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    #[error("it must be an address or a network, like 10.0.0.0/8 or fd00::/8")]
    Syntax,
    #[error("its prefix is longer than its address")]
    Prefix,
    #[error("its address has bits beyond the prefix; write the network's first address")]
    HostBits,
}

/// Whom one connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Of the client, or of the forwarder that speaks HTTP for it.
    pub address: SocketAddr,
    /// Whether its word on others is believed.
    pub trusted: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Forwarders(Vec<Network>);

impl Forwarders {
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    pub fn peer(&self, address: SocketAddr) -> Peer {
        let ip = address.ip().to_canonical();
        Peer {
            address: SocketAddr::new(ip, address.port()),
            trusted: self.0.iter().any(|network| network.contains(ip)),
        }
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        masked(address, self.prefix) == Some(self.first)
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| InvalidNetwork::Syntax)?;
        let bits = if first.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| InvalidNetwork::Syntax)?
            }
            Some(_) => return Err(InvalidNetwork::Syntax),
            None => bits,
        };
        match masked(first, prefix) {
            None => Err(InvalidNetwork::Prefix),
            Some(masked) if masked != first => Err(InvalidNetwork::HostBits),
            Some(first) => Ok(Self { first, prefix }),
        }
    }
}

/// `None`: the address has fewer bits.
fn masked(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let gone = 32_u32.checked_sub(prefix.into())?;
            let mask = u32::MAX.checked_shl(gone).unwrap_or(0);
            Some(Ipv4Addr::from_bits(address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let gone = 128_u32.checked_sub(prefix.into())?;
            let mask = u128::MAX.checked_shl(gone).unwrap_or(0);
            Some(Ipv6Addr::from_bits(address.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_address_and_a_prefix() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7", "192.0.2.7/32", "::/0", "fd00::/8", "::1/128"] {
            assert!(good.parse::<Network>().is_ok(), "{good}");
        }
        let table = [
            ("", InvalidNetwork::Syntax),
            ("10.0.0/8", InvalidNetwork::Syntax),
            ("10.0.0.0/", InvalidNetwork::Syntax),
            ("10.0.0.0/+8", InvalidNetwork::Syntax),
            ("10.0.0.0/256", InvalidNetwork::Syntax),
            ("10.0.0.0/33", InvalidNetwork::Prefix),
            ("::/129", InvalidNetwork::Prefix),
            ("10.0.0.1/8", InvalidNetwork::HostBits),
            ("fd00::1/64", InvalidNetwork::HostBits),
        ];
        for (text, expect) in table {
            assert_eq!(text.parse::<Network>(), Err(expect), "{text:?}");
        }
    }

    #[test]
    fn who_is_trusted() {
        let networks = ["10.1.0.0/16", "192.0.2.7", "fd00::/8"];
        let forwarders = Forwarders::new(networks.iter().map(|text| text.parse().unwrap()).collect());
        let table = [
            ("10.1.255.255:1", true),
            ("10.2.0.0:1", false),
            ("192.0.2.7:1", true),
            ("192.0.2.8:1", false),
            ("[fd12::1]:1", true),
            ("[fe80::1]:1", false),
            // As a socket for both families sees it.
            ("[::ffff:10.1.2.3]:1", true),
            ("[::ffff:10.2.2.3]:1", false),
        ];
        for (address, expect) in table {
            assert_eq!(forwarders.peer(address.parse().unwrap()).trusted, expect, "{address}");
            assert!(!Forwarders::default().peer(address.parse().unwrap()).trusted, "{address}");
        }
        let mapped = forwarders.peer("[::ffff:10.1.2.3]:9".parse().unwrap());
        assert_eq!(mapped.address, "10.1.2.3:9".parse().unwrap());
    }
}
