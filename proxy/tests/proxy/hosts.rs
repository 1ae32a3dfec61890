//! Under which Host a session is served: its own, and no other. One table for every way in.

use std::sync::Arc;

use http::{Request, StatusCode};
use jetway_proxy::{Files, Tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::backends::mirror;
use crate::http2_client::{Http2, whole};
use crate::https::Made;
use crate::play::{Play, Stage, entry};
use crate::raw::Raw;

/// A Host, and what a session without and one with the subdomain `sub` answers under it. The
/// cluster is `example.com`.
const HOSTS: [(&str, u16, u16); 27] = [
    ("example.com", 200, 404),
    ("EXAMPLE.com", 200, 404),
    ("example.com:443", 200, 404),
    ("example.com:12345", 200, 404),
    ("127.0.0.1:9090", 200, 404),
    ("[::1]:9090", 200, 404),
    ("localhost", 200, 404),
    ("localhost:9090", 200, 404),
    ("sub.example.com", 404, 200),
    ("SUB.Example.COM:443", 404, 200),
    ("sub.example.com:8443", 404, 404),
    ("sub.example.com.", 404, 404),
    ("example.com.", 404, 404),
    ("localhost.", 404, 404),
    ("victim.example.com", 404, 404),
    ("x.sub.example.com", 404, 404),
    ("victim.localhost:9090", 404, 404),
    ("shop.customer.org", 404, 404),
    ("example.com.evil.org", 404, 404),
    ("evilexample.com", 404, 404),
    ("com", 404, 404),
    ("u@example.com", 400, 400),
    ("example.com@evil.org", 400, 400),
    ("example.com/", 400, 400),
    ("example.com, evil.org", 400, 400),
    ("", 400, 400),
    ("127.1", 404, 404),
];

/// A line that no rule speaks of, and one that a rule takes off: the plain lane, and hyper's.
const LANES: [&str; 2] = ["x-lane: plain", "te: deflate"];

/// A session without a subdomain, one with, and how many requests they have seen.
async fn sessions(play: &Play) -> (String, String, impl Fn() -> usize) {
    let (address, seen) = mirror(&play.lifecycle).await;
    let (_, without) = play.ready_backend(address);
    let mut own = entry(address);
    own.subdomain = Some("sub".into());
    let (_, with) = play.backend_of(own);
    (without, with, move || seen.lock().unwrap().len())
}

async fn status(play: &Play, request: &str) -> u16 {
    let mut client = Raw::connect(play.proxy.address).await;
    client.send(request.as_bytes()).await;
    let answer = client.answer().await;
    if answer.status == 404 {
        assert_eq!(answer.code(), "wrong_host", "{request:?}");
    }
    answer.status
}

#[tokio::test]
async fn a_session_is_served_under_its_own_hosts_in_both_lanes() {
    let play = Play::new().await;
    let (without, with, seen) = sessions(&play).await;
    let mut served = 0;
    for (host, shared, own) in HOSTS {
        for lane in LANES {
            for (token, expect) in [(&without, shared), (&with, own)] {
                let request = format!("GET /{token}/ HTTP/1.1\r\nhost: {host}\r\n{lane}\r\n\r\n");
                assert_eq!(status(&play, &request).await, expect, "{request:?}");
                served += usize::from(expect == 200);
                assert_eq!(seen(), served, "{request:?}");
            }
        }
    }
    // The same connection asks under one after the other.
    for lane in LANES {
        let mut client = Raw::connect(play.proxy.address).await;
        for (host, expect) in [("example.com", 200), ("victim.example.com", 404), ("example.com", 200)] {
            client
                .send(format!("GET /{without}/ HTTP/1.1\r\nhost: {host}\r\n{lane}\r\n\r\n").as_bytes())
                .await;
            assert_eq!(client.answer().await.status, expect, "{host} {lane}");
        }
    }
}

#[tokio::test]
async fn a_host_is_named_once_and_by_nobody_else() {
    let play = Stage { trusted: &["127.0.0.1"], ..Stage::default() }.begin().await;
    let (without, _, seen) = sessions(&play).await;
    let foreign = "victim.example.com";
    for lane in LANES {
        for (request, expect) in [
            (format!("GET /{without}/ HTTP/1.0\r\n{lane}\r\n\r\n"), 400),
            (format!("GET /{without}/ HTTP/1.1\r\n{lane}\r\n\r\n"), 400),
            (
                format!("GET /{without}/ HTTP/1.1\r\nhost: example.com\r\nhost: {foreign}\r\n{lane}\r\n\r\n"),
                400,
            ),
            (format!("GET http://example.com/{without}/ HTTP/1.1\r\nhost: {foreign}\r\n{lane}\r\n\r\n"), 400),
            (format!("GET http://{foreign}/{without}/ HTTP/1.1\r\nhost: example.com\r\n{lane}\r\n\r\n"), 400),
            (format!("GET http://{foreign}/{without}/ HTTP/1.1\r\nhost: {foreign}\r\n{lane}\r\n\r\n"), 404),
            // What a trusted forwarder says is for the application.
            (
                format!(
                    "GET /{without}/ HTTP/1.1\r\nhost: {foreign}\r\nx-forwarded-host: example.com\r\n{lane}\r\n\r\n"
                ),
                404,
            ),
            (format!("GET /{without}/ HTTP/1.0\r\nhost: {foreign}\r\n{lane}\r\n\r\n"), 404),
            (format!("GET /{without}/_port/x/ HTTP/1.1\r\nhost: {foreign}\r\n{lane}\r\n\r\n"), 404),
            (format!("GET /no-token/ HTTP/1.1\r\nhost: shop.customer.org\r\n{lane}\r\n\r\n"), 404),
        ] {
            assert_eq!(status(&play, &request).await, expect, "{request:?}");
        }
    }
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    let request = format!("GET /{without}/ HTTP/1.1\r\nhost: {foreign}\r\n{upgrade}\r\n\r\n");
    assert_eq!(status(&play, &request).await, 404, "{request:?}");
    // Nor is a page that waits shown there, nor told how far a start is.
    let stage = "accept: application/vnd.jetway.stage+json";
    for line in [stage, "accept: text/html"] {
        let mut client = Raw::connect(play.proxy.address).await;
        client
            .send(format!("GET /{without}/ HTTP/1.1\r\nhost: shop.customer.org\r\n{line}\r\n\r\n").as_bytes())
            .await;
        assert_eq!(client.answer().await.status, 404, "{line}");
    }
    assert_eq!(seen(), 0);
}

fn named(authority: &str, host: Option<&str>, token: &str) -> Option<Request<()>> {
    let mut request = Request::get(format!("http://{authority}/{token}/"));
    if let Some(host) = host {
        request = request.header("host", host);
    }
    request.body(()).ok()
}

#[tokio::test]
async fn a_session_is_served_under_its_own_hosts_over_http_2() {
    let play = Play::new().await;
    let (without, with, seen) = sessions(&play).await;
    let mut client = Http2::connect(play.proxy.address).await;
    let mut served = 0;
    for (host, shared, own) in HOSTS {
        for (token, expect) in [(&without, shared), (&with, own)] {
            // In a URL, a slash is its path's; and the client's library refuses some by itself.
            if host.contains('/') {
                continue;
            }
            let Some(request) = named(host, None, token) else { continue };
            let (answer, _) = client.start(request, true).await;
            assert_eq!(whole(answer).await.status.as_u16(), expect, "{host}");
            served += usize::from(expect == 200);
            assert_eq!(seen(), served, "{host}");
        }
    }
    for (authority, host, expect) in [
        ("example.com", "example.com", 200),
        ("example.com", "victim.example.com", 400),
        ("victim.example.com", "example.com", 400),
        ("victim.example.com", "victim.example.com", 404),
    ] {
        let (answer, _) = client.start(named(authority, Some(host), &without).unwrap(), true).await;
        assert_eq!(whole(answer).await.status.as_u16(), expect, "{authority} and {host}");
    }
}

async fn secured(certificates: Vec<Files>) -> Play {
    let listen = "127.0.0.1:0".parse().unwrap();
    let tls = Some(Tls { listen, certificates, ordered: false, redirect: None, hsts: None });
    Stage { tls, ..Stage::default() }.begin().await
}

async fn shake(play: &Play, files: &Files, name: &str, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(play.proxy.tls_address.unwrap()).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn a_connection_carries_requests_for_its_certificates_hosts_alone() {
    let made = Made::here();
    let cluster = made.certificate("a", "DNS:example.com,DNS:*.example.com").await;
    let customer = made.certificate("b", "DNS:shop.customer.org,DNS:other.customer.org").await;
    let play = secured(vec![cluster.clone(), customer.clone()]).await;
    let (without, with, _) = sessions(&play).await;
    // The handshake's name, the request's, and what the two sessions answer.
    for (files, name, host, shared, own) in [
        (&cluster, "example.com", "example.com", 200, 404),
        (&cluster, "example.com", "EXAMPLE.com:443", 200, 404),
        (&cluster, "victim.example.com", "example.com", 200, 404),
        (&cluster, "victim.example.com", "sub.example.com", 404, 200),
        (&cluster, "victim.example.com", "victim.example.com", 404, 404),
        (&cluster, "example.com", "shop.customer.org", 421, 421),
        (&cluster, "example.com", "127.0.0.1", 421, 421),
        (&cluster, "example.com", "x.sub.example.com", 421, 421),
        (&customer, "shop.customer.org", "shop.customer.org", 404, 404),
        (&customer, "shop.customer.org", "other.customer.org", 404, 404),
        (&customer, "shop.customer.org", "example.com", 421, 421),
        (&customer, "shop.customer.org", "sub.example.com", 421, 421),
    ] {
        for (token, expect) in [(&without, shared), (&with, own)] {
            let mut client = Http2::over(shake(&play, files, name, b"h2").await).await;
            for _again in 0..2 {
                let (answer, _) = client.start(named(host, None, token).unwrap(), true).await;
                let answer = whole(answer).await;
                assert_eq!(answer.status.as_u16(), expect, "{host} over {name}: {}", answer.body);
                if answer.status == StatusCode::MISDIRECTED_REQUEST {
                    assert_eq!(answer.code(), "misdirected");
                }
            }
            let stream = shake(&play, files, name, b"http/1.1").await;
            let request = format!("GET /{token}/ HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            let told = one(stream, &request).await;
            assert!(told.starts_with(&format!("HTTP/1.1 {expect} ")), "{host} over {name}: {told}");
        }
    }
}

async fn one(mut stream: TlsStream<TcpStream>, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    let _may_end_without_a_goodbye = stream.read_to_end(&mut told).await;
    String::from_utf8_lossy(&told).into_owned()
}
