//! An address is a session's for as long as its drone vouches for it, which may end while a
//! connection to it is made.

use std::time::Duration;

use jetway_protocol::attach::Outcome;
use jetway_protocol::spec::Protocol;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::backends::next_head;
use crate::play::{Play, entry, eventually};
use crate::raw::Raw;

#[tokio::test]
async fn no_byte_goes_where_the_drone_no_longer_vouches() {
    for (lane, protocol) in
        [("x-way: 1", Protocol::Http1), ("te: deflate", Protocol::Http1), ("te: deflate", Protocol::H2c)]
    {
        let play = Play::new().await;
        // A port that opens late: the connect lasts until then.
        let old = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let of = |address| {
            let mut entry = entry(address);
            entry.protocol = protocol;
            entry
        };
        let (backend, token) = play.backend_of(of(old));
        let mut client = Raw::connect(play.proxy.address).await;
        client.send_get(&format!("/{token}/"), &[lane]).await;
        eventually("it is admitted", || play.drone.uses(&backend).pop()).await;
        play.drone.set_away(true);
        play.drone.break_stream();
        play.drone.refuses(1).await;
        // By now, the address may be another session's.
        let listener = TcpListener::bind(old).await.unwrap();
        let accepted = timeout(Duration::from_secs(2), listener.accept()).await;
        let (stream, _) = accepted.expect("a connection").unwrap();
        let mut other = Raw { stream, buffer: Vec::new() };
        assert_eq!(other.rest().await, "", "{lane} {protocol:?}: the other session hears nothing");
        let home = TcpListener::bind(("127.0.0.2", old.port())).await.unwrap();
        play.drone.set(&backend, Outcome::Ready(Box::new(of(home.local_addr().unwrap()))));
        play.drone.set_away(false);
        let (stream, _) = timeout(Duration::from_secs(5), home.accept()).await.expect("its own").unwrap();
        let mut own = Raw { stream, buffer: Vec::new() };
        if protocol == Protocol::H2c {
            assert_eq!(own.take(14).await, b"PRI * HTTP/2.0");
            continue;
        }
        next_head(&mut own).await;
        own.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200, "{lane}");
    }
}
