//! What issuers of certificates ask a proxy for: by the DNS, over UDP and TCP, and by HTTP; and a
//! controller that is away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use crate::play::{Play, Stage, eventually};

const SOON: Duration = Duration::from_secs(5);
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

/// Returns once the proxy has heard of it.
async fn shows(play: &Play, challenge: &str, name: &str, values: &[&str]) {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    play.controller.shown.lock().unwrap().insert((challenge.into(), name.into()), values);
    // The first may have been under way already, and the answer to the second is on its way.
    let fetches = || play.controller.fetches.load(Ordering::Relaxed);
    let before = fetches();
    eventually("the proxy fetches what is shown", || (fetches() >= before + 3).then_some(())).await;
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

    /// TCP has all of it.
    fn is_cut(&self) -> bool {
        self.bytes[2] & 2 != 0
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
    shows(&play, "dns-01", "example.com", &["first", "second"]).await;
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
    shows(&play, "http-01", "a-token_1", &["a-token_1.thumb"]).await;
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

/// From a network of its own: the whole of 127.0.0.0/8 is this machine's.
async fn socket_of(network: u32) -> UdpSocket {
    let [_, b, c, _] = network.to_be_bytes().map(|byte| byte ^ 1);
    UdpSocket::bind(SocketAddr::from(([127, b, c, 1], 0))).await.unwrap()
}

#[tokio::test]
async fn a_flood_asks_no_controller_and_hides_no_answer_from_issuers() {
    const SECONDS: u64 = 5;
    let play = play(true).await;
    shows(&play, "dns-01", "example.com", &["the-value"]).await;
    let address = play.proxy.dns_address.unwrap();
    let before = play.controller.fetches.load(Ordering::Relaxed);
    let (until, mut sent) = (Instant::now() + Duration::from_secs(SECONDS), 0_u32);
    let mut flooders = Vec::new();
    for network in 0..64 {
        flooders.push(socket_of(network << 8).await);
    }
    let flood = async {
        while Instant::now() < until {
            for flooder in &flooders {
                // A host on order, another host, and a name without the label.
                for name in ["_acme-challenge.example.com", "_acme-challenge.x{}.example", "x{}.example"] {
                    let name = name.replace("{}", &sent.to_string());
                    flooder.send_to(&question(&name, TXT, 0), address).await.unwrap();
                    sent += 1;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let issuer = async {
        let (mut answered, asker) = (0, socket_of(0x00ff_ff00).await);
        let asked = question("_acme-challenge.example.com", TXT, 0);
        while Instant::now() < until {
            asker.send_to(&asked, address).await.unwrap();
            let mut answer = [0; 512];
            // Like a resolver, it repeats a question that was lost.
            let Ok(heard) = timeout(Duration::from_millis(300), asker.recv_from(&mut answer)).await else {
                continue;
            };
            let answer = Answered::of(answer[..heard.unwrap().0].to_vec());
            // Where the answer is no longer given by UDP, it is given by TCP.
            let whole = if answer.is_cut() { by_tcp(address, &asked).await } else { answer };
            assert!(whole.says("the-value"), "{:?}", whole.bytes);
            answered += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        answered
    };
    let ((), answered) = tokio::join!(flood, issuer);
    assert!(answered >= SECONDS * 2 && sent > 20_000, "{answered} answers beside {sent} questions");
    // Two in a second, with jitter.
    let fetches = play.controller.fetches.load(Ordering::Relaxed) - before;
    assert!(fetches <= SECONDS * 3, "{fetches} fetches");
}

#[tokio::test]
async fn one_network_is_sent_to_tcp_after_its_answers() {
    let play = play(true).await;
    shows(&play, "dns-01", "example.com", &["the-value"]).await;
    let address = play.proxy.dns_address.unwrap();
    let socket = socket_of(0).await;
    let asked = question("_acme-challenge.example.com", TXT, 0);
    let (mut whole, mut cut) = (0, 0);
    for _ in 0..300 {
        socket.send_to(&asked, address).await.unwrap();
        let mut answer = [0; 512];
        let (length, _) = timeout(SOON, socket.recv_from(&mut answer)).await.expect("an answer").unwrap();
        if Answered::of(answer[..length].to_vec()).is_cut() {
            assert!(length <= asked.len());
            cut += 1;
        } else {
            whole += 1;
        }
    }
    // The second may have turned meanwhile.
    assert!((50..=200).contains(&whole) && cut > 0, "{whole} {cut}");
    // Questions for other names are refused as often, and then not answered.
    let (mut refused, other) = (0, socket_of(0x0100).await);
    for _ in 0..300 {
        other.send_to(&question("example.com", TXT, 0), address).await.unwrap();
    }
    while timeout(Duration::from_millis(500), other.recv_from(&mut [0; 512])).await.is_ok() {
        refused += 1;
    }
    assert!((1..=200).contains(&refused), "{refused}");
}

#[tokio::test]
async fn connections_by_tcp_are_few_and_short() {
    let play = play(true).await;
    shows(&play, "dns-01", "example.com", &["the-value"]).await;
    let address = play.proxy.dns_address.unwrap();
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let begun = Instant::now();
    let mut closed_at_once = 0;
    for stream in &mut silent {
        let ended = timeout(Duration::from_millis(200), stream.read_u8()).await;
        closed_at_once += usize::from(ended.is_ok());
    }
    assert_eq!(closed_at_once, 40 - 16, "one client has 16");
    for stream in &mut silent {
        assert!(timeout(SOON, stream.read_u8()).await.expect("its end").is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(by_tcp(address, &question("_acme-challenge.example.com", TXT, 0)).await.says("the-value"));
}

#[tokio::test]
async fn made_up_hosts_cost_controllers_few_questions() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let tls =
        jetway_proxy::Tls { listen, certificates: Vec::new(), ordered: true, redirect: None, hsts: None };
    let play = Stage { tls: Some(tls), ..Stage::default() }.begin().await;
    let address = play.proxy.tls_address.unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let begun = Instant::now();
    for batch in 0..10 {
        let visits = (0..300).map(|one| {
            let (connector, name) = (connector.clone(), format!("host-{batch}-{one}.example"));
            async move {
                let stream = TcpStream::connect(address).await.unwrap();
                let visited = connector.connect(name.try_into().unwrap(), stream).await;
                assert!(visited.is_err(), "there is nothing to show");
            }
        });
        futures_util::future::join_all(visits).await;
    }
    // 200 at once, and 200 more in each second.
    let most = 200 * (2 + begun.elapsed().as_secs());
    let asked = play.controller.hosts.load(Ordering::Relaxed);
    assert!(asked <= most, "{asked} questions for 3000 names in {:?}", begun.elapsed());
}
