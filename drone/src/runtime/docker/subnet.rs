//! Arithmetic on IPv4 networks, and the choice of one for the sessions. Pure. Not its business: what is taken.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::runtime::Subnet;

/// Where the drones of a host take their networks from: 10.64.0.0/10, one /18 each.
const RANGE: Network = Network { address: 0x0A40_0000, prefix: 10 };
const PREFIX: u8 = 18;
/// Fewer than 8 addresses cannot hold sessions; more than a /8 is a mistake.
const PREFIX_MIN: u8 = 8;
const PREFIX_MAX: u8 = 29;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: u32,
    prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    #[error("--session-subnet {0} must have a prefix from /{PREFIX_MIN} to /{PREFIX_MAX}")]
    Prefix(String),
    #[error("--session-subnet {given} is not a network's address: write {network}")]
    HostBits { given: String, network: Network },
    #[error(
        "--session-subnet {wanted} overlaps {taken}, which this host or another Docker network uses: choose another"
    )]
    Taken { wanted: Network, taken: Network },
    #[error("every /{PREFIX} in {RANGE} is in use: choose a network with --session-subnet")]
    NoneFree,
}

impl Network {
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { address: u32::from(address) & mask(prefix), prefix }
    }

    pub fn overlaps(&self, other: &Network) -> bool {
        let common = mask(self.prefix.min(other.prefix));
        self.address & common == other.address & common
    }

    /// With the first address as its gateway.
    pub fn subnet(&self) -> Subnet {
        let gateway = Ipv4Addr::from(self.address.saturating_add(1));
        Subnet { network: Ipv4Addr::from(self.address), prefix: self.prefix, gateway }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.address), self.prefix)
    }
}

impl FromStr for Network {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let prefix = prefix.parse::<u8>().ok().filter(|prefix| *prefix <= 32).ok_or(())?;
        Ok(Self::containing(address.parse().map_err(|_| ())?, prefix))
    }
}

/// The operator's choice, checked for itself.
pub fn wanted((address, prefix): (Ipv4Addr, u8)) -> Result<Network, SubnetError> {
    let given = format!("{address}/{prefix}");
    if !(PREFIX_MIN..=PREFIX_MAX).contains(&prefix) {
        return Err(SubnetError::Prefix(given));
    }
    let network = Network::containing(address, prefix);
    if Ipv4Addr::from(network.address) == address {
        Ok(network)
    } else {
        Err(SubnetError::HostBits { given, network })
    }
}

/// The wanted network, or the first free one of the range.
pub fn choose(wanted: Option<Network>, taken: &[Network]) -> Result<Network, SubnetError> {
    let blocker = |network: &Network| taken.iter().find(|taken| taken.overlaps(network)).copied();
    if let Some(wanted) = wanted {
        return match blocker(&wanted) {
            Some(taken) => Err(SubnetError::Taken { wanted, taken }),
            None => Ok(wanted),
        };
    }
    let count = 1u32 << (PREFIX - RANGE.prefix);
    (0..count)
        .map(|index| Network { address: RANGE.address + (index << (32 - PREFIX)), prefix: PREFIX })
        .find(|network| blocker(network).is_none())
        .ok_or(SubnetError::NoneFree)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_free_one_is_taken() {
        for (taken, expect) in [
            (vec![], "10.64.0.0/18"),
            (vec!["172.17.0.0/16", "192.0.2.0/24"], "10.64.0.0/18"),
            (vec!["10.64.0.0/18"], "10.64.64.0/18"),
            (vec!["10.64.10.0/24", "10.64.64.1/32"], "10.64.128.0/18"),
            (vec!["10.64.0.0/11"], "10.96.0.0/18"),
        ] {
            let taken: Vec<_> = taken.into_iter().map(network).collect();
            assert_eq!(choose(None, &taken).unwrap(), network(expect), "{taken:?}");
        }
        assert_eq!(choose(None, &[network("10.0.0.0/8")]), Err(SubnetError::NoneFree));
    }

    #[test]
    fn the_operators_choice_is_checked() {
        let parse = |text: &str| {
            let (address, prefix) = text.split_once('/').unwrap();
            wanted((address.parse().unwrap(), prefix.parse().unwrap()))
        };
        assert_eq!(parse("10.1.0.0/16").unwrap(), network("10.1.0.0/16"));
        assert!(parse("10.1.0.1/16").unwrap_err().to_string().ends_with("write 10.1.0.0/16"));
        for bad in ["10.0.0.0/7", "10.0.0.0/30", "10.0.0.0/33", "0.0.0.0/0"] {
            assert!(matches!(parse(bad), Err(SubnetError::Prefix(_))), "{bad}");
        }
        let error = choose(Some(network("172.17.128.0/24")), &[network("172.17.0.0/16")]).unwrap_err();
        assert!(error.to_string().contains("172.17.0.0/16"), "{error}");
        let subnet = network("10.1.0.0/16").subnet();
        assert_eq!((subnet.gateway.to_string().as_str(), subnet.prefix), ("10.1.0.1", 16));
    }
}
