//! HTTPS: real handshakes by rustls, curl and openssl, certificates that change, and whoever comes
//! by HTTP.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use futures_util::{SinkExt, StreamExt};
use jetway_protocol::attach::ToProxy;
use jetway_protocol::ids::GrantId;
use jetway_proxy::{Files, Tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

use crate::backends::{app, echo_socket};
use crate::play::{FENCING, Play, Stage, eventually};
use crate::raw;

pub struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        let _already_gone = std::fs::remove_dir_all(&self.0);
    }
}

impl Made {
    pub fn here() -> Self {
        let directory = std::env::temp_dir().join(format!("jetway-tls-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    /// A certificate of its own authority.
    pub async fn certificate(&self, file: &str, names: &str) -> Files {
        let (certificate, key) = (self.0.join(format!("{file}.pem")), self.0.join(format!("{file}.key")));
        let alternative = format!("subjectAltName={names}");
        let arguments = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let more = [
            "-days",
            "2",
            "-subj",
            "/CN=jetway test",
            "-addext",
            &alternative,
            "-addext",
            "basicConstraints=CA:FALSE",
        ];
        let files = ["-out", text(&certificate), "-keyout", text(&key)];
        run("openssl", &[&arguments[..], &more, &files].concat()).await;
        Files { certificate, key }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).env("no_proxy", "*").kill_on_drop(true).output().await;
    output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/setup --test installs it"))
}

async fn begin(certificates: Vec<Files>, redirect: Option<u16>) -> Play {
    let listen = "127.0.0.1:0".parse().unwrap();
    let tls = Some(Tls { listen, certificates, ordered: false, redirect, hsts: Some(300) });
    Stage { tls, trusted: &["127.0.0.2"], ..Stage::default() }.begin().await
}

/// The name in `files`' certificate that is asked for, and the handshake's connection.
async fn shake(
    play: &Play,
    files: &Files,
    name: &str,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(play.proxy.tls_address.unwrap()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn both_versions_of_http_and_their_websockets_go_through_tls() {
    let made = Made::here();
    let files = made.certificate("a", "DNS:example.com").await;
    let play = begin(vec![files.clone()], None).await;
    let address = app(&play.lifecycle, Router::new().route("/", get(async || "hello"))).await;
    let (_, token) = play.ready_backend(address);
    let port = play.proxy.tls_address.unwrap().port();
    let url = format!("https://example.com:{port}/{token}/");
    let resolve = format!("example.com:{port}:127.0.0.1");
    let always = ["-sS", "--resolve", &resolve, "--cacert", text(&files.certificate)];
    for (how, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let told = "\n%{http_version} %{http_code}";
        let output = run("curl", &[&always[..], &[how, "-D", "-", "-w", told, &url]].concat()).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.ends_with(&format!("hello\n{version} 200")), "{how}: {output:?}");
        assert!(said.to_ascii_lowercase().contains("strict-transport-security: max-age=300"), "{said}");
    }
    let old = run("curl", &[&always[..], &["--tls-max", "1.1", &url]].concat()).await;
    assert!(!old.status.success(), "{old:?}");

    let (backend, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let stream = shake(&play, &files, "example.com", &[b"http/1.1"]).await.unwrap();
    let url = format!("wss://example.com/{token}/socket");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    for size in [0, 1, 100_000] {
        let sent = Message::binary(vec![7; size]);
        socket.send(sent.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), sent);
    }
    play.drone.push(ToProxy::Revoked { backend, fencing_token: FENCING, grants: vec![GrantId(1)] });
    let Some(Ok(Message::Close(Some(why)))) = socket.next().await else { panic!("it is told why") };
    assert_eq!(u16::from(why.code), 4403);
}

#[tokio::test]
async fn a_message_reaches_a_client_that_reads_late_to_its_last_byte() {
    const MESSAGE_BYTES: usize = 8 * 1024 * 1024;
    let made = Made::here();
    let files = made.certificate("a", "DNS:example.com").await;
    let play = begin(vec![files.clone()], None).await;
    let address = crate::backends::raw(&play.lifecycle, |raw: raw::Raw| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(raw.stream).await else { return };
        socket.send(Message::binary(vec![7; MESSAGE_BYTES])).await.unwrap();
        // Nothing more, until it is acknowledged.
        let _acknowledged = socket.next().await;
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let stream = shake(&play, &files, "example.com", &[b"http/1.1"]).await.unwrap();
    let url = format!("wss://example.com/{token}/");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let message = tokio::time::timeout(std::time::Duration::from_secs(10), socket.next()).await;
    assert_eq!(message.expect("all of it comes").unwrap().unwrap().len(), MESSAGE_BYTES);
}

#[tokio::test]
async fn the_close_of_a_tls_socket_counts_as_one() {
    let made = Made::here();
    let files = made.certificate("a", "DNS:example.com").await;
    let play = begin(vec![files.clone()], None).await;
    let (backend, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let stream = shake(&play, &files, "example.com", &[]).await.unwrap();
    let (socket, _) =
        tokio_tungstenite::client_async(format!("wss://example.com/{token}/"), stream).await.unwrap();
    eventually("it is in use", || {
        play.drone.uses(&backend).last().is_some_and(|(_, told)| told.uses == 1).then_some(())
    })
    .await;
    drop(socket);
    eventually("it is not any more", || {
        play.drone.uses(&backend).last().is_some_and(|(_, told)| told.uses == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_is_shown_the_certificate_for_its_host_and_a_new_one_once_it_is_there() {
    let made = Made::here();
    let (first, second) =
        (made.certificate("a", "DNS:a.example").await, made.certificate("b", "DNS:*.b.example").await);
    let play = begin(vec![first.clone(), second.clone()], None).await;
    shake(&play, &first, "a.example", &[]).await.unwrap();
    shake(&play, &second, "x.b.example", &[]).await.unwrap();
    assert!(shake(&play, &second, "b.example", &[]).await.is_err(), "a wildcard is for one label");
    // What cannot be used changes nothing: half a pair, and no certificate at all.
    let renewed = made.certificate("c", "DNS:a.example").await;
    let before = [&first, &second].map(kept);
    std::fs::copy(&renewed.certificate, &first.certificate).unwrap();
    std::fs::write(&second.certificate, "nonsense").unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    for (shown, host) in before.iter().zip(["a.example", "x.b.example"]) {
        shake(&play, shown, host, &[]).await.expect("the one before");
    }
    assert!(shake(&play, &renewed, "a.example", &[]).await.is_err(), "its key is not there yet");
    std::fs::copy(&renewed.key, &first.key).unwrap();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(15);
    while shake(&play, &renewed, "a.example", &[]).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the new one is not shown");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// A copy of the certificate, for a client to know it by once its file has changed.
fn kept(files: &Files) -> Files {
    let certificate = files.certificate.with_extension("kept");
    std::fs::copy(&files.certificate, &certificate).unwrap();
    Files { certificate, key: files.key.clone() }
}

#[tokio::test]
async fn who_comes_by_http_is_sent_to_https_but_for_balancers() {
    let made = Made::here();
    let files = made.certificate("a", "DNS:example.com").await;
    let play = begin(vec![files], Some(8443)).await;
    let address = app(&play.lifecycle, Router::new().route("/", get(async || "hello"))).await;
    let (_, token) = play.ready_backend(address);
    let answer = raw::get(play.proxy.address, &format!("/{token}/?a=b"), &[]).await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), Some(&*format!("https://example.com:8443/{token}/?a=b")));
    assert_eq!(answer.header("strict-transport-security"), None, "RFC 6797 §7.2");
    let answer = raw::get(play.proxy.address, "/ready", &[]).await;
    assert_eq!(answer.status, 200);
    // From a trusted forwarder, which ends TLS itself.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(play.proxy.address).await.unwrap();
    let mut forwarder = raw::Raw { stream, buffer: Vec::new() };
    assert_eq!(forwarder.get(&format!("/{token}/"), &[]).await.body, "hello");
}

#[tokio::test]
async fn whoever_does_not_speak_tls_holds_nothing_up() {
    let made = Made::here();
    let files = made.certificate("a", "DNS:example.com").await;
    let play = begin(vec![files.clone()], None).await;
    let mut silent = TcpStream::connect(play.proxy.tls_address.unwrap()).await.unwrap();
    let mut plain = TcpStream::connect(play.proxy.tls_address.unwrap()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _reset_or_end = plain.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    silent.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
    shake(&play, &files, "example.com", &[]).await.unwrap();
}

#[tokio::test]
async fn a_session_is_resumed() {
    let made = Made::here();
    let files = made.certificate("a", "DNS:example.com").await;
    let play = begin(vec![files.clone()], None).await;
    let address = play.proxy.tls_address.unwrap().to_string();
    let arguments = |version| {
        ["s_client", "-connect", &address, "-servername", "example.com", version, "-reconnect"]
            .map(str::to_owned)
    };
    let output = Command::new("sh")
        .args(["-c", &format!("echo | openssl {} 2>&1", arguments("-tls1_2").join(" "))])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.matches("Reused, TLSv1.2").count() >= 4, "{said}");
}
