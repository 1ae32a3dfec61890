//! Whose address a backend is told: the socket's, a balancer's word by the PROXY protocol, a
//! forwarder's by its headers.

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

use crate::backends::mirror;
use crate::http2_client::IN_TIME;
use crate::play::{Play, Stage};
use crate::raw::Raw;

const SAID: &str = "x-forwarded-for: 203.0.113.5\r\nx-forwarded-proto: http\r\nx-forwarded-host: public\r\n\
    forwarded: for=203.0.113.5\r\n";

/// What the backend was told, after `first` bytes.
async fn told(play: &Play, first: &[u8], lines: &str) -> String {
    let (address, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send(first).await;
    client.send(format!("GET /{token}/ HTTP/1.1\r\nhost: example.com\r\n{lines}\r\n").as_bytes()).await;
    client.answer().await.body
}

fn has(told: &str, lines: &[&str]) {
    for line in lines {
        assert!(told.contains(&format!("{line}\r\n")), "{line} in {told}");
    }
}

#[tokio::test]
async fn a_strangers_word_is_replaced_and_a_forwarders_extended() {
    let play = Play::new().await;
    let seen = told(&play, b"", SAID).await;
    has(
        &seen,
        &[
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: https",
            "x-forwarded-host: example.com",
            "forwarded: for=127.0.0.1;host=\"example.com\";proto=https",
        ],
    );
    assert!(!seen.contains("203.0.113.5") && !seen.contains("public"), "{seen}");

    let play = Stage { trusted: &["127.0.0.0/8"], ..Stage::default() }.begin().await;
    has(
        &told(&play, b"", SAID).await,
        &[
            "x-forwarded-for: 203.0.113.5, 127.0.0.1",
            "x-forwarded-proto: http",
            "x-forwarded-host: public",
            "forwarded: for=203.0.113.5, for=127.0.0.1;host=\"example.com\";proto=http",
        ],
    );
}

#[tokio::test]
async fn names_for_a_client_and_its_user_are_a_forwarders() {
    let lines =
        "X-Real-IP: 203.0.113.5\r\nremote-user: ann\r\nX_Real_IP: 1.1.1.1\r\nproxy: http://2.2.2.2\r\n";
    for (trusted, passes) in [(&[][..], false), (&["127.0.0.0/8"][..], true)] {
        let play = Stage { trusted, ..Stage::default() }.begin().await;
        // In the plain lane, if no other line is ruled, and in hyper's.
        for lines in [lines, "X-Real-IP: 203.0.113.5\r\nRemote-User: ann\r\n"] {
            let seen = told(&play, b"", lines).await.to_ascii_lowercase();
            for line in ["x-real-ip: 203.0.113.5\r\n", "remote-user: ann\r\n"] {
                assert_eq!(seen.contains(line), passes, "{line} in {seen}");
            }
            assert!(!seen.contains("1.1.1.1") && !seen.contains("2.2.2.2"), "{seen}");
        }
    }
}

#[tokio::test]
async fn a_balancer_says_by_the_proxy_protocol_who_comes() {
    let stage = || Stage { trusted: &["127.0.0.1"], proxy_protocol: true, ..Stage::default() };
    let play = stage().begin().await;
    let second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\xc7\x38\x01\xbb";
    let sixth =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\x20\x01\x0d\xb8"[..], &[0; 11], &[7], &[0; 16], &[0, 1, 0, 2]];
    for (header, client) in [
        (&b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\n"[..], "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 51000 443\r\n", "2001:db8::7"),
        (second, "192.0.2.7"),
        (&sixth.concat(), "2001:db8::7"),
        // A balancer's own checks.
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "127.0.0.1"),
    ] {
        let seen = told(&play, header, "").await;
        has(&seen, &[&format!("x-forwarded-for: {client}")]);
    }
    // The client behind it is no forwarder.
    let seen = told(&play, b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\n", SAID).await;
    assert!(!seen.contains("203.0.113.5"), "{seen}");
}

#[tokio::test]
async fn without_its_header_a_balancer_is_not_heard_and_a_stranger_claims_nothing() {
    let play = Stage { trusted: &["127.0.0.1"], proxy_protocol: true, ..Stage::default() }.begin().await;
    for begun in [
        &b"GET /ready HTTP/1.1\r\nhost: h\r\n\r\n"[..],
        b"PROXY TCP4 192.0.2.7\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        &[b'P'; 200],
    ] {
        let mut client = Raw::connect(play.proxy.address).await;
        client.send(begun).await;
        assert_eq!(client.rest().await, "", "{begun:?}");
    }
    let play = Stage { trusted: &["192.0.2.1"], proxy_protocol: true, ..Stage::default() }.begin().await;
    let mut client = Raw::connect(play.proxy.address).await;
    client.send(b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\nGET /ready HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(client.head().await.status, 400, "from others it is no header, and bad HTTP");
    has(&told(&play, b"", "").await, &["x-forwarded-for: 127.0.0.1"]);
}

#[tokio::test]
async fn a_header_in_pieces_arrives_and_a_request_glued_to_it_too() {
    let play = Stage { trusted: &["127.0.0.1"], proxy_protocol: true, ..Stage::default() }.begin().await;
    let mut client = Raw::connect(play.proxy.address).await;
    for byte in b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\nGET /ready HTTP/1.1\r\nhost: h\r\n\r\n" {
        client.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer().await.body, "ready\n");
}

#[tokio::test]
async fn ipv6_listens_like_ipv4() {
    let play = Stage { listen: "[::1]:0", trusted: &["::1"], ..Stage::default() }.begin().await;
    has(
        &told(&play, b"", SAID).await,
        &[
            "x-forwarded-for: 203.0.113.5, ::1",
            "forwarded: for=203.0.113.5, for=\"[::1]\";host=\"example.com\";proto=http",
        ],
    );
}

#[tokio::test]
async fn a_client_of_both_families_listener_is_told_as_what_it_is() {
    let play = Stage { listen: "[::]:0", trusted: &["127.0.0.1"], ..Stage::default() }.begin().await;
    let port = play.proxy.address.port();
    let (address, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let told =
        crate::raw::get(("127.0.0.1", port), &format!("/{token}/"), &["x-forwarded-for: 203.0.113.5"]).await;
    has(&told.body, &["x-forwarded-for: 203.0.113.5, 127.0.0.1"]);
}

#[tokio::test]
async fn the_protocol_needs_somebody_to_be_trusted() {
    let config = jetway_proxy::Config {
        controllers: vec!["http://127.0.0.1:1".into()],
        listen: "127.0.0.1:0".parse().unwrap(),
        name: "p".into(),
        cluster: None,
        secret: crate::play::secret(),
        hold: IN_TIME,
        root_redirect: None,
        trusted_forwarders: Vec::new(),
        proxy_protocol: true,
        drain: std::time::Duration::ZERO,
        reuse_port: false,
        client: Default::default(),
        token: Default::default(),
        body_pause: None,
        tls: None,
        acme_dns: None,
        brand: String::new(),
    };
    let refused = jetway_proxy::start(config, jetway_service::lifecycle::Lifecycle::new()).await;
    assert!(refused.unwrap_err().to_string().contains("--trusted-forwarders"));
}

/// Whoever says nothing, or too little, is let go of when the time of a head is over; it costs
/// others nothing.
#[tokio::test]
async fn silence_in_the_place_of_a_header_ends() {
    let play = Stage { trusted: &["127.0.0.1"], proxy_protocol: true, ..Stage::default() }.begin().await;
    let mut silent = Raw::connect(play.proxy.address).await;
    silent.send(b"PROXY TC").await;
    let begun = Instant::now();
    let (ended, ()) = tokio::join!(timeout(IN_TIME, silent.stream.read_u8()), async {
        play.proxy_lifecycle.token().cancel()
    });
    assert!(ended.expect("a stop does not wait for it").is_err());
    assert!(begun.elapsed() < IN_TIME / 2);
}
