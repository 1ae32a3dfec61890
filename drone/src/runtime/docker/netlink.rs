//! Talking to the kernel over netlink: messages, attributes, answers. Not its business: what is said
//! ([`super::nft`], [`super::routes`]).

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP: u16 = 0x300;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;

const HEADER_BYTES: usize = 16;
const NESTED: u16 = 0x8000;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
/// The kernel answers at once; a socket that stays silent this long will not answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// The kernel's own limit on one datagram of a dump is 32 KiB.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// One message: `kind` is the message type, the body begins with the family's fixed header.
#[derive(Debug, Clone)]
pub struct Message {
    pub kind: u16,
    pub flags: u16,
    pub body: Vec<u8>,
}

/// An attribute's bytes, aligned.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    pad(&mut bytes);
    bytes
}

pub fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &parts.concat())
}

pub fn text_attribute(kind: u16, text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    attribute(kind, &bytes)
}

/// Numbers of nf_tables are big-endian.
pub fn number_attribute(kind: u16, number: u32) -> Vec<u8> {
    attribute(kind, &number.to_be_bytes())
}

/// The attributes in a message's body after its fixed header. What is malformed ends the list.
pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let [a, b, c, d, ..] = *bytes {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = bytes.get(4..length) else { break };
        found.push((u16::from_ne_bytes([c, d]) & !NESTED, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Sends the messages as one datagram and collects the answers: until each message that asked for it is acknowledged,
/// or a dump is done. The first error that the kernel reports is the outcome.
pub fn exchange(protocol: Option<Protocol>, messages: &[Message]) -> Result<Vec<Message>, Errno> {
    let socket = open(protocol)?;
    let mut datagram = Vec::new();
    for (sequence, message) in (1u32..).zip(messages) {
        encode(message, sequence, &mut datagram);
    }
    rustix::net::sendto(&socket, &datagram, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut acknowledgements = messages.iter().filter(|message| message.flags & ACK != 0).count();
    let mut is_dumping = messages.iter().any(|message| message.flags & DUMP == DUMP);
    let mut answers = Vec::new();
    let mut buffer = vec![0; DATAGRAM_BYTES];
    while acknowledgements > 0 || is_dumping {
        let (length, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for answer in decode(buffer.get(..length).unwrap_or_default()) {
            match answer.kind {
                TYPE_ERROR => match error_of(&answer.body) {
                    Some(errno) => return Err(errno),
                    None => acknowledgements = acknowledgements.saturating_sub(1),
                },
                TYPE_DONE => is_dumping = false,
                _ => answers.push(answer),
            }
        }
    }
    Ok(answers)
}

fn open(protocol: Option<Protocol>) -> Result<OwnedFd, Errno> {
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_DEADLINE))?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

fn encode(message: &Message, sequence: u32, datagram: &mut Vec<u8>) {
    let length = u32::try_from(HEADER_BYTES + message.body.len()).unwrap_or(u32::MAX);
    datagram.extend_from_slice(&length.to_ne_bytes());
    datagram.extend_from_slice(&message.kind.to_ne_bytes());
    datagram.extend_from_slice(&message.flags.to_ne_bytes());
    datagram.extend_from_slice(&sequence.to_ne_bytes());
    datagram.extend_from_slice(&0u32.to_ne_bytes());
    datagram.extend_from_slice(&message.body);
    pad(datagram);
}

fn decode(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let [a, b, c, d, e, f, g, h, ..] = *bytes {
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(0);
        let Some(body) = bytes.get(HEADER_BYTES..length) else { break };
        messages.push(Message {
            kind: u16::from_ne_bytes([e, f]),
            flags: u16::from_ne_bytes([g, h]),
            body: body.to_vec(),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

/// `None`: an acknowledgement.
fn error_of(body: &[u8]) -> Option<Errno> {
    let code = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    (code != 0).then(|| Errno::from_raw_os_error(-code))
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let parts = [text_attribute(1, "jw-1"), number_attribute(2, 7)];
        let all = parts.concat();
        assert_eq!(attributes(&all), vec![(1, &b"jw-1\0"[..]), (2, &[0, 0, 0, 7][..])]);
        let mut datagram = Vec::new();
        encode(&Message { kind: 5, flags: REQUEST, body: vec![1, 2, 3] }, 9, &mut datagram);
        assert_eq!(datagram.len(), 20);
        let read = decode(&datagram);
        assert_eq!((read.len(), read[0].kind, read[0].body.as_slice()), (1, 5, &[1, 2, 3][..]));
    }

    proptest! {
        #[test]
        fn no_bytes_confuse_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let _ = attributes(&bytes);
        }
    }
}
