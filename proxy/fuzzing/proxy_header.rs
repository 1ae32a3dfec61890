//! A PROXY header: the same however it arrives, of bounded length, and whoever it names can be
//! named again.

use std::net::{IpAddr, SocketAddr};

use crate::peer::proxy_protocol::{HEADER_BYTES_MAX, Header, NoHeader, parse};

/// `bytes`: what a connection begins with.
pub fn proxy_header(bytes: &[u8]) {
    let found = parse(bytes);
    let bytes = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
    assert_eq!(parse(bytes), found, "what comes after the longest header counts");
    let at_cuts = || (0..bytes.len()).map(|cut| parse(&bytes[..cut]));
    match found {
        Ok(Header::Complete { length, client }) => {
            assert!(length <= bytes.len(), "{length} of {} bytes", bytes.len());
            for (cut, at_cut) in at_cuts().enumerate() {
                let expect = if cut < length { Ok(Header::Incomplete) } else { found };
                assert_eq!(at_cut, expect, "cut at {cut} of {length}");
            }
            for after in [&b""[..], b"\r\n", b"PROXY TCP4 ", b"\0"] {
                assert_eq!(parse(&[&bytes[..length], after].concat()), found, "with {after:?} after it");
            }
            client.into_iter().for_each(is_read_alike_in_both_versions);
        }
        Ok(Header::Incomplete) => {
            assert!(bytes.len() < HEADER_BYTES_MAX, "it waits for more than the longest header");
            at_cuts().for_each(|at_cut| assert_eq!(at_cut, Ok(Header::Incomplete)));
        }
        Err(NoHeader) => {
            let mut at_cuts = at_cuts().skip_while(|at_cut| *at_cut == Ok(Header::Incomplete));
            assert!(at_cuts.all(|at_cut| at_cut == Err(NoHeader)), "a header once, and then none");
        }
    }
}

fn is_read_alike_in_both_versions(client: SocketAddr) {
    let (ip, port) = (client.ip(), client.port());
    let line = match ip {
        IpAddr::V4(ip) => format!("PROXY TCP4 {ip} 192.0.2.1 {port} 443\r\n"),
        IpAddr::V6(ip) => format!("PROXY TCP6 {ip} 2001:db8::1 {port} 443\r\n"),
    };
    let (family, addresses) = match ip {
        IpAddr::V4(ip) => (0x11, [&ip.octets()[..], &[192, 0, 2, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), [7; 16]].concat()),
    };
    let rest = [&addresses[..], &port.to_be_bytes(), &443_u16.to_be_bytes()].concat();
    let length = u8::try_from(rest.len()).expect("36 bytes at most");
    let binary = [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family, 0, length][..], &rest].concat();
    for header in [line.into_bytes(), binary] {
        let expect = Header::Complete { length: header.len(), client: Some(client) };
        assert_eq!(parse(&header), Ok(expect), "{header:?}");
    }
}
