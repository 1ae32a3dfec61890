//! What a backend gets of a request: ours once each and as we say, nothing that only looks like
//! ours, nothing of the connection that it came over, and all the rest as it was.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use http::header::{HeaderMap, HeaderValue};
use jetway_protocol::attach::Entry;
use jetway_protocol::spec::Protocol;

use super::headers::{Message, is_a_forwarders, is_of_one_connection, is_ours, nominated, values};
use crate::headers::{FixedHeaders, Forwarding, Told, Upgrade, to_backend, upgrade_wanted};
use crate::peer::forwarders::Peer;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Who sends it, and for whom.
struct Sender {
    peer: Peer,
    user: Option<&'static str>,
}

pub fn request(message: &Message) {
    let wanted = upgrade_wanted(message.version, &Method::GET, &message.headers, false);
    let wanted = wanted.map(|protocol| {
        is_no_other_http(&protocol);
        Upgrade { protocol, key: None }
    });
    let key = Some(KEY.to_owned());
    let of_a_stream = Upgrade { protocol: HeaderValue::from_static("websocket"), key };
    let upgrades = [None, Some(&of_a_stream), wanted.as_ref()];
    for (address, trusted, user) in [
        ("192.0.2.7:51000", false, Some("Zoë")),
        ("[2001:db8::7]:51000", false, None),
        ("10.0.0.4:51000", true, Some("ann")),
    ] {
        let address: SocketAddr = address.parse().expect("an address");
        let sender = Sender { peer: Peer { address, trusted }, user };
        for upgrade in upgrades {
            sent(message, &sender, upgrade);
        }
    }
}

/// Inside of another HTTP, requests would reach the backend that nobody has looked at.
fn is_no_other_http(protocol: &HeaderValue) {
    let text = protocol.to_str().expect("a protocol is ASCII").to_ascii_lowercase();
    for protocol in text.split(',').map(str::trim) {
        let is_harmless = !["h2", "http", "tls"].iter().any(|other| protocol.starts_with(other));
        assert!(is_harmless && !protocol.is_empty(), "{text}");
    }
}

fn entry(user: Option<&str>) -> Entry {
    Entry {
        address: "10.64.0.9:8080".parse().expect("an address"),
        protocol: Protocol::Http1,
        ports: BTreeMap::new(),
        user: user.map(str::to_owned),
        auth: "{\"role\":\"editor\"}".into(),
        secret: "s3cret".into(),
        subdomain: None,
        linger_seconds: 10,
        allowed_origins: Vec::new(),
    }
}

fn sent(message: &Message, sender: &Sender, upgrade: Option<&Upgrade>) {
    let verified_path = message.target.verified_path.as_str();
    let forwarding = Forwarding { peer: sender.peer, scheme: "https", host: &message.host };
    let backend = "b-1".parse().expect("an id");
    let fixed = FixedHeaders::new(Arc::new(entry(sender.user)), &backend, &forwarding);
    let fixed = fixed.expect("all of it can be written");
    let told = Told { fixed: &fixed, verified_path, forwarding, upgrade };
    let (before, mut after) = (&message.headers, message.headers.clone());
    to_backend(&mut after, &told).unwrap_or_else(|error| panic!("{}: {error}", message.uri));
    let mut expect = identity(sender, verified_path);
    expect.extend(forwarding_fields(message, sender));
    if let Some(upgrade) = upgrade {
        expect.push(("connection", b"upgrade".to_vec()));
        expect.push(("upgrade", upgrade.protocol.as_bytes().to_vec()));
        expect.extend(upgrade.key.iter().map(|key| ("sec-websocket-key", key.clone().into_bytes())));
    }
    for (name, value) in &expect {
        assert_eq!(values(&after, name), [value], "{name} of {before:?}");
    }
    let is_expected = |name: &str| expect.iter().any(|(expected, _)| *expected == name);
    nothing_else_is_there(before, &after, sender.peer.trusted, is_expected);
    the_rest_is_as_it_was(before, &after, is_expected);
    hosts_cookies_and_te(message, &after);
}

fn identity(sender: &Sender, verified_path: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut identity = vec![
        ("x-verified-user-data", b"{\"role\":\"editor\"}".to_vec()),
        ("x-verified-backend", b"b-1".to_vec()),
        ("x-verified-secret", b"s3cret".to_vec()),
        ("x-verified-path", verified_path.as_bytes().to_vec()),
    ];
    identity.extend(sender.user.map(|user| ("x-verified-username", user.as_bytes().to_vec())));
    identity
}

/// Of a forwarder, what it said comes first; of anybody else, nothing is left.
fn forwarding_fields(message: &Message, sender: &Sender) -> Vec<(&'static str, Vec<u8>)> {
    let gone = nominated(&message.headers);
    let said = |name: &str| match sender.peer.trusted && !gone.contains(name) {
        true => values(&message.headers, name),
        false => Vec::new(),
    };
    let (ip, host) = (sender.peer.address.ip(), &message.host);
    let proto = match said("x-forwarded-proto")[..] {
        [one] if one.eq_ignore_ascii_case(b"http") => "http",
        _ => "https",
    };
    let node = if ip.is_ipv4() { ip.to_string() } else { format!("\"[{ip}]\"") };
    let element = format!("for={node};host=\"{host}\";proto={proto}");
    let after = |name: &str, ours: String| {
        let said = said(name).into_iter().filter(|said| !said.is_empty());
        said.chain([ours.as_bytes()]).collect::<Vec<_>>().join(&b", "[..])
    };
    let host = match said("x-forwarded-host")[..] {
        [one] => one.to_vec(),
        _ => host.as_bytes().to_vec(),
    };
    vec![
        ("x-forwarded-for", after("x-forwarded-for", ip.to_string())),
        ("x-forwarded-proto", proto.as_bytes().to_vec()),
        ("x-forwarded-host", host),
        ("forwarded", after("forwarded", element)),
    ]
}

fn nothing_else_is_there(
    before: &HeaderMap,
    after: &HeaderMap,
    is_trusted: bool,
    is_expected: impl Fn(&str) -> bool,
) {
    let gone = nominated(before);
    for name in after.keys().map(|name| name.as_str()).filter(|name| !is_expected(name)) {
        assert!(!is_ours(name) || (is_trusted && is_a_forwarders(name)), "{name} of {before:?}");
        assert!(!is_of_one_connection(name), "{name} of {before:?}");
        assert!(before.contains_key(name) || name == "host", "{name} is new in {after:?}");
        // A sender that takes trailers must name `TE` there; it is said anew.
        assert!(!gone.contains(name) || name == "te", "{name} was named by Connection: {before:?}");
    }
}

fn the_rest_is_as_it_was(before: &HeaderMap, after: &HeaderMap, is_expected: impl Fn(&str) -> bool) {
    let gone = nominated(before);
    for name in before.keys().map(|name| name.as_str()) {
        let is_changed = is_of_one_connection(name) || is_ours(name) || name == "te" || name == "cookie";
        if !is_changed && !is_expected(name) && !gone.contains(name) {
            assert_eq!(values(after, name), values(before, name), "{name} of {before:?}");
        }
    }
}

fn hosts_cookies_and_te(message: &Message, after: &HeaderMap) {
    let before = &message.headers;
    let host = match values(before, "host")[..] {
        [given] => given,
        _ => message.host.as_bytes(),
    };
    assert_eq!(values(after, "host"), [host], "{} {before:?}", message.uri);
    let crumbs = values(before, "cookie");
    if !nominated(before).contains("cookie") && !crumbs.is_empty() {
        assert_eq!(values(after, "cookie"), [crumbs.join(&b"; "[..])], "{before:?}");
    }
    let te = values(before, "te").join(&b","[..]).to_ascii_lowercase();
    let takes_trailers = te.split(|byte| *byte == b',').any(|token| token.trim_ascii() == b"trailers");
    match values(after, "te")[..] {
        [] => {}
        [said] => assert!(said == b"trailers" && takes_trailers, "{before:?}"),
        _ => panic!("several TE: {after:?}"),
    }
}
