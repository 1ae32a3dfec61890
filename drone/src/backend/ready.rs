//! The drone's own look at whether an application is ready: an open port, or an HTTP answer. For images where init
//! cannot tell, and for specs that ask for more than a listening socket. Deadlines are the backend's.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use jetway_service::backoff::Backoff;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::engine::{Done, Job};

/// Quick at first: most applications need a few tens of milliseconds.
const FIRST: Duration = Duration::from_millis(2);
const MAX: Duration = Duration::from_millis(100);
const TRY_SECONDS_MAX: u64 = 2;

pub fn accepts_connections(address: SocketAddr) -> Job {
    Box::pin(async move {
        let mut backoff = Backoff::new(FIRST, MAX);
        while !matches!(within(TcpStream::connect(address)).await, Some(Ok(_))) {
            backoff.wait().await;
        }
        Done::Reachable
    })
}

pub fn answers_http(address: SocketAddr, path: String) -> Job {
    Box::pin(async move {
        let mut backoff = Backoff::new(FIRST, MAX);
        while within(get(address, &path)).await != Some(true) {
            backoff.wait().await;
        }
        Done::Reachable
    })
}

async fn within<T>(attempt: impl Future<Output = T>) -> Option<T> {
    timeout(Duration::from_secs(TRY_SECONDS_MAX), attempt).await.ok()
}

/// Whether the answer is 2xx or 3xx.
async fn get(address: SocketAddr, path: &str) -> bool {
    let Ok(stream) = TcpStream::connect(address).await else { return false };
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await
    else {
        return false;
    };
    let request = http::Request::get(path).header(http::header::HOST, address.to_string());
    let Ok(request) = request.header(http::header::CONNECTION, "close").body(Empty::<Bytes>::new()) else {
        return false;
    };
    tokio::select! {
        biased;
        answer = sender.send_request(request) => {
            answer.is_ok_and(|answer| answer.status().is_success() || answer.status().is_redirection())
        }
        // Its end may come together with the answer, and an answer is what counts.
        () = async { drop(connection.await); std::future::pending().await } => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn http_readiness_waits_for_a_good_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            for answer in ["HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 204 yes\r\n\r\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let length = stream.read(&mut head).await.unwrap();
                assert!(head[..length].starts_with(b"GET /healthy HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let (done, ()) = tokio::join!(answers_http(address, "/healthy".into()), server);
        assert!(matches!(done, Done::Reachable));
    }
}
