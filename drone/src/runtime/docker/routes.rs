//! The networks that this host already reaches, of every routing table. Not its business: which of them matter.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::netlink::{DUMP, Message, REQUEST, attributes, exchange};

const GET_ROUTE: u16 = 26;
const NEW_ROUTE: u16 = 24;
const FAMILY_IPV4: u8 = 2;
/// Bytes of a route message's fixed header; in it, the destination's prefix length is the second, the type the eighth.
const ROUTE_HEADER_BYTES: usize = 12;
const ATTRIBUTE_DESTINATION: u16 = 1;
const TYPE_BROADCAST: u8 = 3;
const TYPE_MULTICAST: u8 = 5;

/// Destinations of the IPv4 routes; the default route is none. Empty where the kernel does not say.
pub fn destinations() -> Vec<Ipv4Net> {
    let mut body = vec![0; ROUTE_HEADER_BYTES];
    body[0] = FAMILY_IPV4;
    let ask = Message { kind: GET_ROUTE, flags: REQUEST | DUMP, body };
    match exchange(None, &[ask]) {
        Ok(answers) => answers.iter().filter_map(destination).collect(),
        Err(errno) => {
            tracing::warn!(%errno, "the host's routes cannot be read; only the engine's networks are avoided");
            Vec::new()
        }
    }
}

fn destination(route: &Message) -> Option<Ipv4Net> {
    let header = route.body.get(..ROUTE_HEADER_BYTES)?;
    let (prefix, kind) = (*header.get(1)?, *header.get(7)?);
    let matters = route.kind == NEW_ROUTE && prefix > 0 && !matches!(kind, TYPE_BROADCAST | TYPE_MULTICAST);
    let found = attributes(route.body.get(ROUTE_HEADER_BYTES..)?);
    let (_, bytes) = found.into_iter().find(|(kind, _)| *kind == ATTRIBUTE_DESTINATION)?;
    let octets: [u8; 4] = bytes.try_into().ok()?;
    let network = Ipv4Net::new(Ipv4Addr::from(octets), prefix).ok()?;
    matters.then(|| network.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_network_is_among_them() {
        let is_loopback = |network: &Ipv4Net| network.contains(&Ipv4Addr::LOCALHOST);
        assert!(destinations().iter().any(is_loopback), "{:?}", destinations());
    }
}
