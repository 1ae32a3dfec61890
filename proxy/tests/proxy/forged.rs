//! An application does not speak with the proxy's voice, nor for the sessions that share its
//! origin: in both lanes, over HTTP/2, as an answer to an upgrade, and in trailers.

use jetway_protocol::spec::Protocol;

use crate::backends::{next_head, raw};
use crate::http2_client::Http2;
use crate::play::{Play, entry};
use crate::raw::Raw;

const WAYS: [&str; 3] = ["x-way: 1", "te: trailers", "connection: upgrade\r\nupgrade: websocket"];
const MARK: &str = "proxy-status";

/// A backend that gives every request this answer.
async fn giving(play: &Play, answer: &'static str) -> std::net::SocketAddr {
    raw(&play.lifecycle, move |mut raw: Raw| async move {
        while next_head(&mut raw).await.is_some() {
            raw.send(answer.as_bytes()).await;
        }
    })
    .await
}

#[tokio::test]
async fn no_session_forges_the_proxys_mark() {
    let play = Play::new().await;
    let answer = "HTTP/1.1 410 Gone\r\nProxy-Status: cdn\r\nProxy-Status: jetway; error=http_request_denied\r\n\
        trailer: proxy-status, x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\
        proxy-status: jetway; error=destination_unavailable\r\nx-sum: 1\r\n\r\n";
    let (_, token) = play.ready_backend(giving(&play, answer).await);
    for way in WAYS {
        let mut client = Raw::connect(play.proxy.address).await;
        client.send_get(&format!("/{token}/"), &[way]).await;
        let head = client.head().await;
        assert_eq!((head.status, head.header(MARK)), (410, None), "{way}: {head:?}");
        client.take_until("0\r\n").await;
        let mut rest = String::new();
        while !rest.ends_with("\r\n\r\n") && rest != "\r\n" {
            rest += &client.take_until("\r\n").await;
        }
        assert!(!rest.contains("jetway"), "{way}: {rest:?}");
    }
    let answer = Http2::connect(play.proxy.address).await.get(&format!("/{token}/")).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (410, "no"));
    assert!(!answer.headers.contains_key(MARK) && !answer.trailers.contains_key(MARK), "{answer:?}");
    assert_eq!(answer.trailers["x-sum"], "1");
}

#[tokio::test]
async fn a_switch_carries_no_mark() {
    let play = Play::new().await;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        proxy-status: jetway\r\nset-login: logged-out\r\n\r\n";
    let (_, token) = play.ready_backend(giving(&play, answer).await);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[WAYS[2]]).await;
    let head = client.head().await;
    assert_eq!((head.status, head.header(MARK), head.header("set-login")), (101, None, None));
}

#[tokio::test]
async fn only_an_origin_of_its_own_is_spoken_for() {
    let play = Play::new().await;
    let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"\r\nAccept-CH: Sec-CH-UA\r\n\
        Use-As-Dictionary: match=\"/*\"\r\nOrigin-Agent-Cluster: ?0\r\n\
        content-length: 0\r\n\r\n";
    let address = giving(&play, answer).await;
    let names = ["www-authenticate", "accept-ch", "use-as-dictionary", "origin-agent-cluster"];
    for (subdomain, host) in [(None, "example.com"), (Some("own"), "own.example.com")] {
        let mut entry = entry(address);
        entry.subdomain = subdomain.map(|name: &str| name.parse().unwrap());
        entry.protocol = Protocol::Http1;
        let (_, token) = play.backend_of(entry);
        for way in WAYS {
            let mut client = Raw::connect(play.proxy.address).await;
            let request = format!("GET /{token}/ HTTP/1.1\r\nhost: {host}\r\n{way}\r\n\r\n");
            client.send(request.as_bytes()).await;
            let head = client.head().await;
            assert_eq!(head.status, 401);
            for name in names {
                assert_eq!(head.header(name).is_some(), subdomain.is_some(), "{way}: {name} under {host}");
            }
        }
    }
}
