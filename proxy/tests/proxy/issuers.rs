//! What issuers of certificates ask a proxy for: by the DNS, over UDP and TCP, and by HTTP; and a controller that is away.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::play::{Play, Stage};

const TXT: u16 = 16;
const SOA: u16 = 6;
const A: u16 = 1;
/// Codes of an answer (RFC 1035 §4.1.1).
const FINE: u8 = 0;
const FAILED: u8 = 2;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

async fn play(controller_answers: bool) -> Play {
    let acme_dns = Some("127.0.0.1:0".parse().unwrap());
    Stage { acme_dns, controller_answers, ..Stage::default() }.begin().await
}

fn shows(play: &Play, challenge: &str, name: &str, values: &[&str]) {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    play.controller.shown.lock().unwrap().insert((challenge.into(), name.into()), values);
}

/// A question, as it is sent (RFC 1035 §4).
fn question(name: &str, kind: u16, flags: u16) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd];
    bytes.extend(flags.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

struct Answered {
    code: u8,
    records: u16,
    bytes: Vec<u8>,
}

impl Answered {
    fn of(bytes: Vec<u8>) -> Self {
        assert_eq!(bytes[..2], [0xab, 0xcd], "{bytes:?}");
        Self { code: bytes[3] & 0xf, records: u16::from_be_bytes([bytes[6], bytes[7]]), bytes }
    }

    fn says(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

async fn by_udp(address: SocketAddr, question: &[u8]) -> Option<Answered> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(question, address).await.unwrap();
    let mut answer = vec![0; 4096];
    let (length, _) = timeout(Duration::from_secs(5), socket.recv_from(&mut answer)).await.ok()?.unwrap();
    answer.truncate(length);
    Some(Answered::of(answer))
}

async fn by_tcp(address: SocketAddr, question: &[u8]) -> Answered {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_u16(u16::try_from(question.len()).unwrap()).await.unwrap();
    stream.write_all(question).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Answered::of(answer)
}

#[tokio::test]
async fn the_dns_knows_challenges_and_refuses_everything_else() {
    let play = play(true).await;
    shows(&play, "dns-01", "example.com", &["first", "second"]);
    let address = play.proxy.dns_address.unwrap();
    // The case of a question is the asker's own, and its answer has it, too.
    let name = "_ACME-challenge.eXample.com";
    for answer in [
        by_udp(address, &question(name, TXT, 0)).await.unwrap(),
        by_tcp(address, &question(name, TXT, 0)).await,
    ] {
        assert_eq!((answer.code, answer.records), (FINE, 2), "{:?}", answer.bytes);
        assert!(
            answer.says("first") && answer.says("second") && answer.says("eXample"),
            "{:?}",
            answer.bytes
        );
    }
    for (name, kind, code, records) in [
        ("_acme-challenge.example.com", SOA, FINE, 1),
        ("_acme-challenge.example.com", A, FINE, 0),
        ("_acme-challenge.other.example", TXT, FINE, 0),
        ("example.com", TXT, REFUSED, 0),
        ("com", SOA, REFUSED, 0),
        ("x._acme-challenge.example.com", TXT, REFUSED, 0),
    ] {
        let answer = by_udp(address, &question(name, kind, 0)).await.unwrap();
        assert_eq!((answer.code, answer.records), (code, records), "{name} {kind}: {:?}", answer.bytes);
    }
    let update = by_udp(address, &question("_acme-challenge.example.com", SOA, 5 << 11)).await.unwrap();
    assert_eq!(update.code, NOT_IMPLEMENTED, "nobody changes anything by it");
    for nonsense in [&b""[..], b"\0", &[0xff; 600]] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(nonsense, address).await.unwrap();
    }
    let after = by_udp(address, &question("_acme-challenge.example.com", TXT, 0)).await.unwrap();
    assert_eq!(after.records, 2);
}

#[tokio::test]
async fn an_issuer_is_answered_before_anybody_is_sent_to_https() {
    let play = play(true).await;
    shows(&play, "http-01", "a-token_1", &["a-token_1.thumb"]);
    let port = play.proxy.address.port();
    let of = async |path: &str| crate::raw::get(("127.0.0.1", port), path, &[]).await;
    let shown = of("/.well-known/acme-challenge/a-token_1").await;
    assert_eq!((shown.status, shown.body.as_str()), (200, "a-token_1.thumb"));
    for path in ["nobodys", "", "a/b", "a-token_1/", "%61-token_1"] {
        let answer = of(&format!("/.well-known/acme-challenge/{path}")).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
    }
    let elsewhere = of("/.well-known/security.txt").await;
    assert_eq!(elsewhere.status, 410, "{}", elsewhere.body);
}

#[tokio::test]
async fn where_no_controller_answers_nobody_pretends_to_know() {
    let play = play(false).await;
    let answer =
        by_udp(play.proxy.dns_address.unwrap(), &question("_acme-challenge.example.com", TXT, 0)).await;
    assert_eq!(answer.unwrap().code, FAILED);
    let port = play.proxy.address.port();
    let answer = crate::raw::get(("127.0.0.1", port), "/.well-known/acme-challenge/token", &[]).await;
    assert_eq!(answer.status, 503, "{}", answer.body);
}
