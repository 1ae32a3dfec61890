//! Further ports of a backend, by their names in the path or before the subdomain.

use std::net::SocketAddr;

use jetway_protocol::attach::Entry;
use jetway_protocol::spec::{Port, Protocol};

use crate::backends::{echo_socket, echoes, mirror, open_socket};
use crate::http2_client::Http2;
use crate::play::{CLUSTER, Play, Stage, entry};
use crate::raw::{Raw, get};

fn with_ports(main: SocketAddr, ports: &[(&str, u16)]) -> Entry {
    let mut entry = entry(main);
    let named =
        |&(name, port): &(&str, u16)| (name.parse().unwrap(), Port { port, protocol: Protocol::Http1 });
    entry.ports = ports.iter().map(named).collect();
    entry
}

async fn under(play: &Play, host: &str, path: &str) -> crate::raw::Answer {
    let mut client = Raw::connect(play.proxy.address).await;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await;
    client.answer().await
}

#[tokio::test]
async fn a_name_in_the_path_leads_to_its_port_directly_and_through_the_drone() {
    for direct in [true, false] {
        let play = Stage { direct, ..Stage::default() }.begin().await;
        let ((main, _), (debug, seen)) = (mirror(&play.lifecycle).await, mirror(&play.lifecycle).await);
        let (_, token) = play.backend_of(with_ports(main, &[("http", main.port()), ("debug", debug.port())]));
        let mut client = Raw::connect(play.proxy.address).await;
        for _ in 0..3 {
            let answer = client.get(&format!("/{token}/_port/debug/a/b?c"), &[]).await;
            assert!(answer.body.starts_with("GET /a/b?c HTTP/1.1\r\n"), "{answer:?}");
            assert!(
                answer.body.contains(&format!("x-verified-path: /{token}/_port/debug/a/b\r\n")),
                "{answer:?}"
            );
            assert_eq!(std::mem::take(&mut *seen.lock().unwrap()).len(), 1);
            for main in ["/a", "/_port/http/a", "/_ports/a"] {
                assert_eq!(client.get(&format!("/{token}{main}"), &[]).await.status, 200, "{main}");
                assert!(seen.lock().unwrap().is_empty(), "{main} is not the debugger's");
            }
        }
    }
}

#[tokio::test]
async fn a_name_before_the_subdomain_leads_to_its_port() {
    let play = Play::new().await;
    let ((main, seen_by_main), (debug, seen)) =
        (mirror(&play.lifecycle).await, mirror(&play.lifecycle).await);
    let mut entry = with_ports(main, &[("debug", debug.port())]);
    entry.subdomain = Some("sub".into());
    let (_, token) = play.backend_of(entry);
    let seen = || (seen_by_main.lock().unwrap().len(), seen.lock().unwrap().len());
    let path = format!("/{token}/a");
    for (host, path, status, counts) in [
        (format!("sub.{CLUSTER}"), path.clone(), 200, (1, 0)),
        (format!("debug--sub.{CLUSTER}"), path.clone(), 200, (1, 1)),
        (format!("debug--sub.{CLUSTER}"), format!("/{token}/_port/debug/a"), 200, (1, 2)),
        (format!("sub.{CLUSTER}"), format!("/{token}/_port/debug/a"), 200, (1, 3)),
        (format!("debug--sub.{CLUSTER}"), format!("/{token}/_port/other/a"), 400, (1, 3)),
        (format!("other--sub.{CLUSTER}"), path.clone(), 404, (1, 3)),
        (format!("--sub.{CLUSTER}"), path.clone(), 404, (1, 3)),
        (format!("debug--other.{CLUSTER}"), path.clone(), 404, (1, 3)),
        (CLUSTER.to_owned(), path.clone(), 404, (1, 3)),
    ] {
        assert_eq!(under(&play, &host, &path).await.status, status, "{host}{path}");
        assert_eq!(seen(), counts, "{host}{path}");
    }
}

#[tokio::test]
async fn a_name_that_the_spec_does_not_have_is_a_404_that_says_what_it_has() {
    let play = Play::new().await;
    let (main, seen) = mirror(&play.lifecycle).await;
    let (_, token) = play.backend_of(with_ports(main, &[("debug", 1), ("http", main.port())]));
    for name in ["other", "", "DEBUG", "debug%2f", "8080", "..", "debug--x"] {
        let answer = get(play.proxy.address, &format!("/{token}/_port/{name}/a"), &[]).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "port_unknown"), "{name:?}");
        assert_eq!(answer.header("proxy-status"), Some("jetway; error=destination_not_found"));
        assert!(answer.json()["message"].as_str().unwrap().ends_with("it has debug, http"), "{answer:?}");
    }
    let (_, without) = play.ready_backend(main);
    let answer = get(play.proxy.address, &format!("/{without}/_port/http/"), &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "port_unknown"));
    assert!(seen.lock().unwrap().is_empty());
    let answer = get(play.proxy.address, &format!("/{token}/_port/debug/"), &[]).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "backend_unreachable"),
        "nothing listens there"
    );
}

#[tokio::test]
async fn websockets_and_http_2_reach_a_named_port() {
    let play = Play::new().await;
    let ((main, _), socket) = (mirror(&play.lifecycle).await, echo_socket(&play.lifecycle).await);
    let (_, token) = play.backend_of(with_ports(main, &[("live", socket.port()), ("http", main.port())]));
    echoes(&mut open_socket(play.proxy.address, &format!("{token}/_port/live")).await, "hello").await;
    let mut client = Http2::connect(play.proxy.address).await;
    let answer = client.get(&format!("/{token}/_port/http/x")).await;
    assert!(answer.body.starts_with("GET /x HTTP/1.1\r\n"), "{answer:?}");
}

#[tokio::test]
async fn a_named_ports_cookies_stay_below_it() {
    let play = Play::new().await;
    let address = crate::backends::raw(&play.lifecycle, |mut raw| async move {
        while crate::backends::next_head(&mut raw).await.is_some() {
            raw.send(
                b"HTTP/1.1 200 OK\r\nset-cookie: a=b; Path=/; Domain=example.com\r\nset-cookie: c=d\r\n\
                  clear-site-data: \"*\"\r\nservice-worker-allowed: /\r\ncontent-length: 0\r\n\r\n",
            )
            .await;
        }
    })
    .await;
    let mut entry = with_ports(address, &[("debug", address.port())]);
    let (_, token) = play.backend_of(entry.clone());
    for (path, first, second) in [
        (format!("/{token}/x/y"), format!("/{token}"), format!("/{token}/x")),
        (format!("/{token}"), format!("/{token}"), format!("/{token}")),
        (
            format!("/{token}/_port/debug/x/y"),
            format!("/{token}/_port/debug"),
            format!("/{token}/_port/debug/x"),
        ),
    ] {
        let answer = get(play.proxy.address, &path, &[]).await;
        let cookies: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "set-cookie").collect();
        assert_eq!(cookies[0].1, format!("a=b; Path={first}"), "{path}");
        assert_eq!(cookies[1].1, format!("c=d; Path={second}"), "{path}");
        assert_eq!((answer.header("clear-site-data"), answer.header("service-worker-allowed")), (None, None));
        assert_eq!(answer.header("referrer-policy"), Some("strict-origin"));
    }
    entry.subdomain = Some("sub".into());
    let (_, token) = play.backend_of(entry);
    let answer = under(&play, &format!("sub.{CLUSTER}"), &format!("/{token}/x")).await;
    assert_eq!(answer.header("set-cookie"), Some("a=b; Path=/"), "its origin is its own, its domain is not");
    assert_eq!(answer.header("clear-site-data"), Some("\"*\""));
}
