//! The PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): what a balancer that
//! forwards bytes says of the client before the client's first byte.
//!
//! Pure, and of bounded work: every prefix of a header is "more", a header or no header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A version 1 header with its line end (§2.1).
const LINE_BYTES_MAX: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// Addresses and TLVs of a version 2 header. A balancer that adds a whole certificate chain is not
/// one we know.
const REST_BYTES_MAX: usize = 4096;
/// No header is longer.
pub const HEADER_BYTES_MAX: usize = FIXED_BYTES + REST_BYTES_MAX;

/// The bytes up to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The start of one.
    Incomplete,
    Complete {
        /// Its length in bytes.
        length: usize,
        /// `None`: the balancer speaks for itself (a health check), or does not know; the socket's
        /// peer is the client.
        client: Option<SocketAddr>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no PROXY header")]
pub struct NoHeader;

pub fn parse(bytes: &[u8]) -> Result<Header, NoHeader> {
    if begins(bytes, SIGNATURE) {
        return binary(bytes);
    }
    if begins(bytes, LINE_START) {
        return line(bytes);
    }
    Err(NoHeader)
}

/// Whether one is the start of the other.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let common = bytes.len().min(with.len());
    bytes[..common] == with[..common]
}

fn line(bytes: &[u8]) -> Result<Header, NoHeader> {
    let seen = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = seen.windows(2).position(|window| window == b"\r\n") else {
        // A line end that could still come must fit.
        return if bytes.len() < LINE_BYTES_MAX { Ok(Header::Incomplete) } else { Err(NoHeader) };
    };
    let text = std::str::from_utf8(&seen[LINE_START.len()..end]).map_err(|_| NoHeader)?;
    let length = end + 2;
    let mut words = text.split(' ');
    let family = words.next().ok_or(NoHeader)?;
    if family == "UNKNOWN" {
        // Whatever follows is to be ignored (§2.1).
        return Ok(Header::Complete { length, client: None });
    }
    let mut address = || -> Result<IpAddr, NoHeader> {
        let word = words.next().ok_or(NoHeader)?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().map(IpAddr::from).map_err(|_| NoHeader),
            "TCP6" => word.parse::<Ipv6Addr>().map(IpAddr::from).map_err(|_| NoHeader),
            _ => Err(NoHeader),
        }
    };
    let (source, _destination) = (address()?, address()?);
    let (source_port, _destination_port) = (port(words.next())?, port(words.next())?);
    if words.next().is_some() {
        return Err(NoHeader);
    }
    Ok(Header::Complete { length, client: Some(SocketAddr::new(source, source_port)) })
}

/// Decimal, without a leading zero or a sign.
fn port(word: Option<&str>) -> Result<u16, NoHeader> {
    let word = word.ok_or(NoHeader)?;
    let plain = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| plain).ok_or(NoHeader)
}

fn binary(bytes: &[u8]) -> Result<Header, NoHeader> {
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else { return Ok(Header::Incomplete) };
    let (version_and_command, family) = (fixed[12], fixed[13]);
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(NoHeader),
    };
    // The high half is the family (unspecified, IPv4, IPv6, Unix), the low one unspecified, stream
    // or datagram (§2.2); others must be refused.
    if family >> 4 > 3 || family & 0xf > 2 || rest > REST_BYTES_MAX {
        return Err(NoHeader);
    }
    let length = FIXED_BYTES + rest;
    let Some(rest) = bytes.get(FIXED_BYTES..length) else { return Ok(Header::Incomplete) };
    let client = if is_local {
        None
    } else {
        match family {
            0x11 | 0x12 => Some(ipv4(rest)?),
            0x21 | 0x22 => Some(ipv6(rest)?),
            _ => None,
        }
    };
    // TLVs follow the addresses, and are passed over.
    Ok(Header::Complete { length, client })
}

/// Source, destination, source port, destination port.
fn ipv4(rest: &[u8]) -> Result<SocketAddr, NoHeader> {
    let addresses = rest.first_chunk::<12>().ok_or(NoHeader)?;
    let source = Ipv4Addr::new(addresses[0], addresses[1], addresses[2], addresses[3]);
    Ok(SocketAddr::from((source, u16::from_be_bytes([addresses[8], addresses[9]]))))
}

fn ipv6(rest: &[u8]) -> Result<SocketAddr, NoHeader> {
    let addresses = rest.first_chunk::<36>().ok_or(NoHeader)?;
    let source = addresses.first_chunk::<16>().ok_or(NoHeader)?;
    Ok(SocketAddr::from((Ipv6Addr::from(*source), u16::from_be_bytes([addresses[32], addresses[33]]))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complete(length: usize, client: Option<&str>) -> Result<Header, NoHeader> {
        Ok(Header::Complete { length, client: client.map(|text| text.parse().unwrap()) })
    }

    #[test]
    fn version_1() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        assert_eq!((long.len(), too_long.len()), (107, 108));
        let table: &[(&str, Result<Header, NoHeader>)] = &[
            ("PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\nGET /", complete(41, Some("192.0.2.7:51000"))),
            ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", complete(32, Some("[2001:db8::1]:1"))),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 0 65535\r\n", complete(39, Some("192.0.2.7:0"))),
            ("PROXY UNKNOWN\r\n", complete(15, None)),
            ("PROXY UNKNOWN ffff::1 ::2 whatever 9\r\n", complete(38, None)),
            (&long, complete(107, None)),
            (&too_long, Err(NoHeader)),
            ("", Ok(Header::Incomplete)),
            ("PROX", Ok(Header::Incomplete)),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r", Ok(Header::Incomplete)),
            ("GET / HTTP/1.1\r\n", Err(NoHeader)),
            ("proxy TCP4 192.0.2.7 10.0.0.1 1 2\r\n", Err(NoHeader)),
            ("PROXY\r\n", Err(NoHeader)),
            ("PROXY \r\n", Err(NoHeader)),
            ("PROXY TCP5 192.0.2.7 10.0.0.1 1 2\r\n", Err(NoHeader)),
            ("PROXY TCP4 ::1 ::1 1 2\r\n", Err(NoHeader)),
            ("PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n", Err(NoHeader)),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n", Err(NoHeader)),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n", Err(NoHeader)),
            ("PROXY TCP4 192.0.2.7  10.0.0.1 1 2\r\n", Err(NoHeader)),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n", Err(NoHeader)),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n", Err(NoHeader)),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 65536 2\r\n", Err(NoHeader)),
            ("PROXY TCP4 192.0.2.7\n10.0.0.1 1 2\r\n", Err(NoHeader)),
            ("PROXY TCP4 256.0.2.7 10.0.0.1 1 2\r\n", Err(NoHeader)),
        ];
        for (text, expect) in table {
            assert_eq!(parse(text.as_bytes()), *expect, "{text:?}");
        }
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn version_2_and_its_limits() {
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0xc7, 0x38, 0x01, 0xbb];
        let four_and_tlvs = [&four[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
        let mut six = [0; 36];
        six[..2].copy_from_slice(&[0x20, 0x01]);
        (six[15], six[33]) = (9, 80);
        let table: &[(&str, Vec<u8>, Result<Header, NoHeader>)] = &[
            ("IPv4", version_2(0x21, 0x11, &four), complete(28, Some("192.0.2.7:51000"))),
            ("IPv4, TLVs", version_2(0x21, 0x11, &four_and_tlvs), complete(35, Some("192.0.2.7:51000"))),
            ("IPv6", version_2(0x21, 0x21, &six), complete(52, Some("[2001::9]:80"))),
            ("LOCAL", version_2(0x20, 0x00, &[]), complete(16, None)),
            ("LOCAL with addresses", version_2(0x20, 0x11, &four), complete(28, None)),
            ("unspecified", version_2(0x21, 0x00, &[1, 2]), complete(18, None)),
            ("Unix", version_2(0x21, 0x31, &[0; 216]), complete(232, None)),
            ("longest", version_2(0x21, 0x00, &[0; REST_BYTES_MAX]), complete(HEADER_BYTES_MAX, None)),
            ("too long", version_2(0x21, 0x00, &[0; REST_BYTES_MAX + 1]), Err(NoHeader)),
            ("too short for its family", version_2(0x21, 0x11, &four[..11]), Err(NoHeader)),
            ("too short for its family", version_2(0x21, 0x21, &six[..35]), Err(NoHeader)),
            ("version 1 in it", version_2(0x11, 0x11, &four), Err(NoHeader)),
            ("version 3", version_2(0x31, 0x11, &four), Err(NoHeader)),
            ("command 2", version_2(0x22, 0x11, &four), Err(NoHeader)),
            ("family 4", version_2(0x21, 0x41, &four), Err(NoHeader)),
            ("transport 3", version_2(0x21, 0x13, &four), Err(NoHeader)),
        ];
        for (what, bytes, expect) in table {
            assert_eq!(parse(bytes), *expect, "{what}");
        }
    }

    proptest! {
        /// However it is cut, what comes out is the same, and what does not parse at a cut does not
        /// parse whole.
        #[test]
        fn a_header_parses_alike_however_it_arrives(
            kind in 0_u8..4,
            noise in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = match kind {
                0 => b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\n".to_vec(),
                1 => version_2(0x21, 0x11, &[7; 20]),
                2 => version_2(0x21, 0x11, &noise),
                _ => Vec::new(),
            };
            bytes.extend(noise);
            let whole = parse(&bytes);
            for cut in 0..bytes.len() {
                match (parse(&bytes[..cut]), whole) {
                    (Ok(Header::Incomplete), _) => {}
                    (at_cut, whole) => prop_assert_eq!(at_cut, whole),
                }
            }
        }
    }
}
