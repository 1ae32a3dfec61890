//! The listening TCP sockets as `/proc/net` shows them: slow, but there where netlink is refused. Which of them
//! count is `listening`'s business.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::listening::Listener;

const LISTEN: &str = "0A";

/// A table that cannot be read (no IPv6, say) has no listeners.
pub fn listeners() -> Vec<Listener> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| table.lines().filter_map(listener).collect::<Vec<_>>())
        .collect()
}

/// One line: number, local address, remote address, state, … inode (proc_net_tcp in the kernel's documentation).
fn listener(line: &str) -> Option<Listener> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    if state != LISTEN {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    let address = SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?);
    Some(Listener { address, ipv6_only: None, inode })
}

/// Words of 32 bits, each printed as a number although it is in network order.
fn address(hex: &str) -> Option<IpAddr> {
    let mut bytes = [0u8; 16];
    let words = hex.as_bytes().chunks(8);
    for (word, place) in words.zip(bytes.chunks_exact_mut(4)) {
        let number = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        place.copy_from_slice(&number.to_ne_bytes());
    }
    match hex.len() {
        8 => Some(IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])),
        32 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn lines_of_both_tables() {
        let check = |line: &str, expect: Option<(&str, u32)>| {
            let expect = expect.map(|(address, inode)| Listener {
                address: address.parse().unwrap(),
                ipv6_only: None,
                inode,
            });
            assert_eq!(listener(line), expect);
        };
        let rest =
            "00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0";
        check(&format!("   0: 0100007F:1F90 00000000:0000 0A {rest}"), Some(("127.0.0.1:8080", 4711)));
        check(&format!("   0: 0100007F:1F90 00000000:0000 01 {rest}"), None);
        let ipv6 = "0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000";
        check(&format!("   1: {ipv6} 0A {rest}"), Some(("[::ffff:127.0.0.1]:8080", 4711)));
        check(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
            None,
        );
        for broken in
            ["", "0: x:y 0:0 0A", "0: 01:1F90 0:0 0A a b c d 5", "0: 0100007F:1F90 0:0 0A 1 2 3 4 x"]
        {
            check(broken, None);
        }
    }
}
