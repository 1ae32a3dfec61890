//! The choice of an IPv4 network for the sessions. Pure; the caller says which networks are taken.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::runtime::Subnet;

/// Where the drones of a host take their networks from, one /18 each.
const RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 10);
const PREFIX: u8 = 18;
pub const FIRST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), PREFIX);
/// Fewer than 8 addresses cannot hold sessions; more than a /8 is a mistake.
const PREFIX_MIN: u8 = 8;
const PREFIX_MAX: u8 = 29;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    #[error("--session-subnet {0} must have a prefix from /{PREFIX_MIN} to /{PREFIX_MAX}")]
    Prefix(String),
    #[error("--session-subnet {given} is not a network's address: write {network}")]
    HostBits { given: String, network: Ipv4Net },
    #[error(
        "--session-subnet {wanted} overlaps {taken}, which this host or another Docker network uses: choose another"
    )]
    Taken { wanted: Ipv4Net, taken: Ipv4Net },
    #[error("every /{PREFIX} in {RANGE} is in use: choose a network with --session-subnet")]
    NoneFree,
}

/// With the first address as its gateway.
pub fn with_gateway(network: Ipv4Net) -> Subnet {
    let gateway = Ipv4Addr::from(u32::from(network.network()).saturating_add(1));
    Subnet { network: network.network(), prefix: network.prefix_len(), gateway }
}

/// As an engine writes it; bits of a host do not count.
pub fn parse(text: &str) -> Option<Ipv4Net> {
    text.parse::<Ipv4Net>().ok().map(|network| network.trunc())
}

/// The operator's choice, checked for itself.
pub fn wanted((address, prefix): (Ipv4Addr, u8)) -> Result<Ipv4Net, SubnetError> {
    let given = format!("{address}/{prefix}");
    if !(PREFIX_MIN..=PREFIX_MAX).contains(&prefix) {
        return Err(SubnetError::Prefix(given));
    }
    match Ipv4Net::new_assert(address, prefix) {
        network if network == network.trunc() => Ok(network),
        network => Err(SubnetError::HostBits { given, network: network.trunc() }),
    }
}

/// The wanted network, or the first free one of the range.
pub fn choose(wanted: Option<Ipv4Net>, taken: &[Ipv4Net]) -> Result<Ipv4Net, SubnetError> {
    let overlap = |a: &Ipv4Net, b: &Ipv4Net| a.contains(b) || b.contains(a);
    let blocker = |network: &Ipv4Net| taken.iter().find(|taken| overlap(taken, network)).copied();
    if let Some(wanted) = wanted {
        return match blocker(&wanted) {
            Some(taken) => Err(SubnetError::Taken { wanted, taken }),
            None => Ok(wanted),
        };
    }
    let mut all = RANGE.subnets(PREFIX).into_iter().flatten();
    all.find(|network| blocker(network).is_none()).ok_or(SubnetError::NoneFree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Ipv4Net {
        parse(text).unwrap()
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
        let asked = |text: &str| {
            let (address, prefix) = text.split_once('/').unwrap();
            wanted((address.parse().unwrap(), prefix.parse().unwrap()))
        };
        assert_eq!(asked("10.1.0.0/16").unwrap(), network("10.1.0.0/16"));
        assert!(asked("10.1.0.1/16").unwrap_err().to_string().ends_with("write 10.1.0.0/16"));
        for bad in ["10.0.0.0/7", "10.0.0.0/30", "10.0.0.0/33", "0.0.0.0/0"] {
            assert!(matches!(asked(bad), Err(SubnetError::Prefix(_))), "{bad}");
        }
        let error = choose(Some(network("172.17.128.0/24")), &[network("172.17.0.0/16")]).unwrap_err();
        assert!(error.to_string().contains("172.17.0.0/16"), "{error}");
        let subnet = with_gateway(network("10.1.0.0/16"));
        assert_eq!((subnet.gateway.to_string().as_str(), subnet.prefix), ("10.1.0.1", 16));
    }
}
