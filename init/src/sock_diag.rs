//! Asking the kernel which TCP sockets listen in this network namespace: `NETLINK_SOCK_DIAG` (sock_diag(7)), which
//! answers in a fraction of the time that reading `/proc/net/tcp` takes. Which of them count is `listening`'s
//! business.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use crate::kernel;
use crate::listening::Listener;

/// Listeners that are looked at, at most: an application that opens more is ready or wrong by then.
const LISTENERS_MAX: usize = 4096;
/// One answer fits: the kernel cuts a dump into pieces of at most this (or of 8 KiB).
const ANSWER_BYTES: usize = 16 * 1024;

// <linux/netlink.h>, <linux/sock_diag.h> and <linux/inet_diag.h>.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SKV6ONLY: u16 = 11;
const TCP_LISTEN: u8 = 10;
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
const MESSAGE_BYTES: usize = 72;

/// The kernel does not answer here (no such module, a filter on system calls): look elsewhere.
#[derive(Debug)]
pub struct Refused;

pub struct SockDiag {
    socket: OwnedFd,
    sequence: u32,
}

impl SockDiag {
    pub fn open() -> Option<Self> {
        let socket = kernel::socket(libc::AF_NETLINK, libc::SOCK_DGRAM, libc::NETLINK_SOCK_DIAG).ok()?;
        Some(Self { socket, sequence: 0 })
    }

    pub fn listeners(&mut self) -> Result<Vec<Listener>, Refused> {
        let mut listeners = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.ask(family as u8)?;
            let mut answer = [0u8; ANSWER_BYTES];
            while let Part::More = parse(self.receive(&mut answer)?, self.sequence, &mut listeners)? {}
        }
        Ok(listeners)
    }

    fn ask(&mut self, family: u8) -> Result<(), Refused> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(family, self.sequence);
        // SAFETY: the bytes outlive the call; without an address the message goes to the kernel.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
        if sent == request.len() as isize { Ok(()) } else { Err(Refused) }
    }

    /// A dump's next piece is there before the call: the kernel makes it inside `send` and `recv`, so this neither
    /// blocks nor needs to.
    fn receive<'a>(&self, answer: &'a mut [u8; ANSWER_BYTES]) -> Result<&'a [u8], Refused> {
        loop {
            let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
            // SAFETY: the kernel writes at most as many bytes as the array has.
            let got = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    answer.as_mut_ptr().cast(),
                    answer.len(),
                    flags,
                    ptr::null_mut(),
                    ptr::null_mut(),
                )
            };
            match usize::try_from(got) {
                Ok(length) if length > 0 && length <= answer.len() => return Ok(&answer[..length]),
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(Refused),
            }
        }
    }
}

fn request(family: u8, sequence: u32) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0; REQUEST_BYTES];
    bytes[..4].copy_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    // inet_diag_req_v2: family, protocol, extensions, padding, states; no socket in particular.
    bytes[HEADER_BYTES] = family;
    bytes[HEADER_BYTES + 1] = libc::IPPROTO_TCP as u8;
    bytes[HEADER_BYTES + 4..HEADER_BYTES + 8].copy_from_slice(&(1u32 << TCP_LISTEN).to_ne_bytes());
    bytes
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    More,
    Last,
}

/// One datagram of the answer to the request of that sequence number.
fn parse(mut bytes: &[u8], sequence: u32, into: &mut Vec<Listener>) -> Result<Part, Refused> {
    while let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let length = u32_at(header, 0) as usize;
        let body = bytes.get(HEADER_BYTES..length).ok_or(Refused)?;
        if u32_at(header, 8) == sequence {
            match i32::from(u16_at(header, 4)) {
                // A dump that failed halfway ends with a negative error number.
                libc::NLMSG_DONE if body.len() >= 4 && (u32_at(body, 0) as i32) < 0 => return Err(Refused),
                libc::NLMSG_DONE => return Ok(Part::Last),
                libc::NLMSG_ERROR => return Err(Refused),
                _ if into.len() < LISTENERS_MAX => into.extend(listener(body)),
                _ => {}
            }
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    Ok(Part::More)
}

/// An `inet_diag_msg` and its attributes.
fn listener(body: &[u8]) -> Option<Listener> {
    let message = body.first_chunk::<MESSAGE_BYTES>()?;
    let ip: IpAddr = match i32::from(message[0]) {
        libc::AF_INET => Ipv4Addr::from(*message[8..].first_chunk::<4>()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(*message[8..].first_chunk::<16>()?).into(),
        _ => return None,
    };
    let port = u16::from_be_bytes([message[4], message[5]]);
    let inode = u32_at(message, 68);
    let ipv6_only =
        attribute(&body[MESSAGE_BYTES..], INET_DIAG_SKV6ONLY).map(|value| value.first() == Some(&1));
    (message[1] == TCP_LISTEN).then_some(Listener { address: SocketAddr::new(ip, port), ipv6_only, inode })
}

fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    while bytes.len() >= 4 {
        let length = usize::from(u16_at(bytes, 0));
        let value = bytes.get(4..length)?;
        if u16_at(bytes, 2) == wanted {
            return Some(value);
        }
        bytes = bytes.get(aligned(length)..)?;
    }
    None
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// In the machine's own order, as netlink has its numbers. The caller has seen that the bytes are there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What the kernel knows of a socket that this test opened.
    fn asked(address: &str) -> Option<Listener> {
        let socket = TcpListener::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        let listeners = SockDiag::open().unwrap().listeners().unwrap();
        listeners.into_iter().find(|listener| listener.address == address)
    }

    #[test]
    fn the_kernel_tells_address_family_and_inode() {
        for (address, ipv6_only) in [("127.0.0.1:0", None), ("0.0.0.0:0", None), ("[::]:0", Some(false))] {
            let found = asked(address).unwrap();
            assert_eq!(found.ipv6_only, ipv6_only, "{address}");
            assert_ne!(found.inode, 0);
        }
    }

    #[test]
    fn both_sources_agree() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let find =
            |listeners: Vec<Listener>| listeners.into_iter().find(|listener| listener.address == address);
        assert_eq!(find(SockDiag::open().unwrap().listeners().unwrap()), find(crate::procfs::listeners()));
        assert!(find(crate::procfs::listeners()).is_some());
    }

    #[test]
    fn broken_answers_are_refused_and_never_a_panic() {
        let mut done = [0; HEADER_BYTES + 4];
        done[..4].copy_from_slice(&20u32.to_ne_bytes());
        done[4..6].copy_from_slice(&(libc::NLMSG_DONE as u16).to_ne_bytes());
        done[8..12].copy_from_slice(&7u32.to_ne_bytes());
        let mut into = Vec::new();
        assert_eq!(parse(&done, 7, &mut into).unwrap(), Part::Last);
        assert_eq!(parse(&done, 8, &mut into).unwrap(), Part::More, "the end of an earlier answer");
        for (length, kind) in
            [(0u32, 20u16), (15, 20), (21, 20), (u32::MAX, 3), (20, libc::NLMSG_ERROR as u16)]
        {
            done[..4].copy_from_slice(&length.to_ne_bytes());
            done[4..6].copy_from_slice(&kind.to_ne_bytes());
            assert!(parse(&done, 7, &mut into).is_err(), "{length} {kind}");
        }
        assert_eq!(attribute(&[0, 0, 11, 0], 11), None);
        assert!(into.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(0u8..24, 0..400), family: bool) {
            let _ = parse(&bytes, 0, &mut Vec::new());
            let mut body = bytes.clone();
            if let Some(first) = body.first_mut() {
                *first = if family { libc::AF_INET6 } else { libc::AF_INET } as u8;
            }
            let _ = listener(&body);
        }
    }
}
