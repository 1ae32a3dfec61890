//! Tunnels over real sockets, without HTTP around them.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::io::buffers::{self, BUFFER_BYTES};
use crate::tunnel::close::Words;
use crate::tunnel::close_code::CloseCode;
use crate::tunnel::{HALF_CLOSED_MAX, Side, run, run_stream};

/// A socket's two ends.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// No WebSocket's.
const NEVER: Option<Words<'_, std::future::Pending<CloseCode>>> = None;

async fn tunnel(half_closed_max: Duration) -> (TcpStream, TcpStream, impl Future<Output = ()>) {
    let ((client, client_side), (backend, backend_side)) = (pair().await, pair().await);
    let side = |stream| Side { stream, early: Bytes::new() };
    let running = async move {
        let last_word = run(&mut side(client_side), side(backend_side), half_closed_max, NEVER).await;
        assert_eq!(last_word, None);
    };
    (client, backend, running)
}

#[tokio::test]
async fn a_tunnel_does_not_stay_half_closed_for_ever() {
    let half_closed_max = Duration::from_millis(50);
    for client_closes in [true, false] {
        let (mut client, mut backend, running) = tunnel(half_closed_max).await;
        let (closes, stays) =
            if client_closes { (&mut client, &mut backend) } else { (&mut backend, &mut client) };
        closes.shutdown().await.unwrap();
        let begun = Instant::now();
        running.await;
        assert!(begun.elapsed() >= half_closed_max, "{:?}", begun.elapsed());
        let mut rest = Vec::new();
        stays.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        assert_eq!(closes.read(&mut [0]).await.unwrap(), 0, "it is closed");
    }
}

#[tokio::test]
async fn a_tunnel_of_a_stream_carries_both_ways_passes_ends_on_and_holds_no_buffer() {
    let (mut client, mut client_side) = tokio::io::duplex(1024);
    let (mut backend, backend_side) = pair().await;
    let side = Side { stream: backend_side, early: Bytes::from_static(b"early") };
    let talk = async {
        let mut got = [0; 5];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"early");
        let sent = vec![7; 3 * BUFFER_BYTES + 1];
        let mut got = vec![0; sent.len()];
        let (written, read) = tokio::join!(client.write_all(&sent), backend.read_exact(&mut got));
        written.unwrap();
        read.unwrap();
        assert_eq!(sent, got);
        let (written, read) = tokio::join!(backend.write_all(&sent), client.read_exact(&mut got));
        written.unwrap();
        read.unwrap();
        while buffers::kept() == 0 {
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
        assert_eq!(backend.read(&mut [0]).await.unwrap(), 0);
        backend.write_all(b"last").await.unwrap();
        backend.shutdown().await.unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "last");
    };
    tokio::join!(run_stream(&mut client_side, side, HALF_CLOSED_MAX, NEVER), talk);
}

#[tokio::test]
async fn a_quiet_tunnel_holds_no_buffer() {
    let (mut client, mut backend, running) = tunnel(HALF_CLOSED_MAX).await;
    let talk = async {
        for size in [1, BUFFER_BYTES, 3 * BUFFER_BYTES + 1] {
            let (sent, mut got) = (vec![7; size], vec![0; size]);
            let (written, read) = tokio::join!(client.write_all(&sent), backend.read_exact(&mut got));
            written.unwrap();
            read.unwrap();
            assert_eq!(sent, got);
        }
        // The last bytes have come; the tunnel's own task has its next turns before this one goes
        // on.
        while buffers::kept() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = running => panic!("nobody has closed it"),
        () = talk => {}
    }
    assert_eq!(buffers::kept(), 1, "and one was enough");
}
