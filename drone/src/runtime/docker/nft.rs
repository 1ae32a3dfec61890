//! The firewall table of one drone, in nf_tables' own words over netlink, so that no program is needed:
//!
//! ```text
//! table inet jetway_1234abcd {
//!   chain input {
//!     type filter hook input priority -5; policy accept;
//!     iifname "jw-1234abcd" ct state & (established | related) == 0 drop
//!   }
//!   chain forward {
//!     type filter hook forward priority -5; policy accept;
//!     iifname "jw-1234abcd" oifname "jw-1234abcd" drop
//!     oifname "jw-1234abcd" ct state & (established | related) == 0 drop
//!   }
//! }
//! ```
//!
//! What comes from the sessions' bridge to the host itself is dropped unless it answers the host.
//! What goes from one session to another is dropped, and what comes to a session from another
//! network of the host, unless it answers the session: an engine with `"iptables": false` has no
//! rules of its own for that. The host itself is not forwarded. A table of our own is left alone by
//! Docker, by iptables and by firewalld's reload. Not its business: where it has to be applied.

use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;

use super::netlink::{
    ACK, APPEND, CREATE, Message, REQUEST, attribute, exchange, nested, number_attribute, text_attribute,
};

const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const FAMILY_UNSPECIFIED: u8 = 0;
const FAMILY_INET: u8 = 1;

const HOOK_LOCAL_IN: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const PRIORITY: i32 = -5;
const POLICY_ACCEPT: u32 = 1;
const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const CT_STATE: u32 = 0;
const COMPARE_EQUAL: u32 = 0;
const VERDICT_DROP: u32 = 0;
/// Bits of a connection's state: established, related.
const ANSWERS: u32 = (1 << 1) | (1 << 2);
const INTERFACE_NAME_BYTES: usize = 16;

/// Makes the table as it must be, in one transaction: there is no moment without it.
pub fn apply(table: &str, bridge: &str) -> Result<(), Errno> {
    let messages = [
        batch(BATCH_BEGIN),
        // Deleting needs it to exist.
        command(NEW_TABLE, CREATE, &[text_attribute(1, table)]),
        command(DEL_TABLE, 0, &[text_attribute(1, table)]),
        command(NEW_TABLE, CREATE, &[text_attribute(1, table)]),
        command(NEW_CHAIN, CREATE, &chain(table, "input", HOOK_LOCAL_IN)),
        command(NEW_RULE, CREATE | APPEND, &rule(table, "input", &from_sessions_to_host(bridge))),
        command(NEW_CHAIN, CREATE, &chain(table, "forward", HOOK_FORWARD)),
        command(NEW_RULE, CREATE | APPEND, &rule(table, "forward", &between_sessions(bridge))),
        command(NEW_RULE, CREATE | APPEND, &rule(table, "forward", &from_elsewhere_to_sessions(bridge))),
        batch(BATCH_END),
    ];
    exchange(Some(NETFILTER), &messages).map(|_| ())
}

/// Absent is success.
pub fn remove(table: &str) -> Result<(), Errno> {
    let delete = command(DEL_TABLE, 0, &[text_attribute(1, table)]);
    match exchange(Some(NETFILTER), &[batch(BATCH_BEGIN), delete, batch(BATCH_END)]) {
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

pub fn is_present(table: &str) -> Result<bool, Errno> {
    match exchange(Some(NETFILTER), &[command(GET_TABLE, 0, &[text_attribute(1, table)])]) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn batch(kind: u16) -> Message {
    let mut body = vec![FAMILY_UNSPECIFIED, 0];
    body.extend_from_slice(&SUBSYSTEM.to_be_bytes());
    Message { kind, flags: REQUEST, body }
}

fn command(kind: u16, flags: u16, attributes: &[Vec<u8>]) -> Message {
    let mut body = vec![FAMILY_INET, 0, 0, 0];
    body.extend(attributes.concat());
    Message { kind: (SUBSYSTEM << 8) | kind, flags: REQUEST | ACK | flags, body }
}

fn chain(table: &str, name: &str, hook: u32) -> [Vec<u8>; 5] {
    let priority = attribute(2, &PRIORITY.to_be_bytes());
    [
        text_attribute(1, table),
        text_attribute(3, name),
        nested(4, &[number_attribute(1, hook), priority]),
        number_attribute(5, POLICY_ACCEPT),
        text_attribute(7, "filter"),
    ]
}

fn rule(table: &str, chain: &str, expressions: &[Vec<u8>]) -> [Vec<u8>; 3] {
    [text_attribute(1, table), text_attribute(2, chain), nested(4, expressions)]
}

fn from_sessions_to_host(bridge: &str) -> Vec<Vec<u8>> {
    [&on_interface(META_IIFNAME, bridge)[..], &unless_it_answers(), &[drop_it()]].concat()
}

fn from_elsewhere_to_sessions(bridge: &str) -> Vec<Vec<u8>> {
    [&on_interface(META_OIFNAME, bridge)[..], &unless_it_answers(), &[drop_it()]].concat()
}

fn between_sessions(bridge: &str) -> Vec<Vec<u8>> {
    let [from, to] = [META_IIFNAME, META_OIFNAME].map(|which| on_interface(which, bridge));
    [&from[..], &to, &[drop_it()]].concat()
}

fn unless_it_answers() -> [Vec<u8>; 3] {
    [
        expression("ct", &[number_attribute(2, CT_STATE), number_attribute(1, REGISTER_1)]),
        expression(
            "bitwise",
            &[
                number_attribute(1, REGISTER_1),
                number_attribute(2, REGISTER_1),
                number_attribute(3, 4),
                data(4, &ANSWERS.to_ne_bytes()),
                data(5, &0u32.to_ne_bytes()),
            ],
        ),
        compare(&0u32.to_ne_bytes()),
    ]
}

fn on_interface(which: u32, interface: &str) -> [Vec<u8>; 2] {
    let mut name = [0; INTERFACE_NAME_BYTES];
    for (to, from) in name.iter_mut().zip(interface.bytes().take(INTERFACE_NAME_BYTES - 1)) {
        *to = from;
    }
    let load = [number_attribute(2, which), number_attribute(1, REGISTER_1)];
    [expression("meta", &load), compare(&name)]
}

fn drop_it() -> Vec<u8> {
    expression("immediate", &[number_attribute(1, REGISTER_VERDICT), verdict_drop()])
}

fn expression(name: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text_attribute(1, name), nested(2, attributes)])
}

fn compare(value: &[u8]) -> Vec<u8> {
    let how = [number_attribute(1, REGISTER_1), number_attribute(2, COMPARE_EQUAL), data(3, value)];
    expression("cmp", &how)
}

fn data(kind: u16, value: &[u8]) -> Vec<u8> {
    nested(kind, &[attribute(1, value)])
}

fn verdict_drop() -> Vec<u8> {
    nested(2, &[nested(2, &[number_attribute(1, VERDICT_DROP)])])
}
