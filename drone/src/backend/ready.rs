//! What the drone itself asks of an application. Whether it is ready: an open port, or an HTTP
//! answer, for images where init cannot tell and for specs that ask for more than a listening
//! socket. And what tells a hot application of its session. How long a start may take is the
//! backend's business.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use jetway_protocol::status::EndReason;
use jetway_service::backoff::Backoff;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Quick at first: most applications need a few tens of milliseconds.
const FIRST: Duration = Duration::from_millis(2);
const MAX: Duration = Duration::from_millis(100);
const TRY_SECONDS_MAX: u64 = 2;
/// Of an answer, interim responses included: an endless one does not keep a core busy.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Returns once a connection there is accepted.
pub async fn accepts_connections(address: SocketAddr) {
    let mut backoff = Backoff::new(FIRST, MAX);
    while !matches!(within(TcpStream::connect(address)).await, Some(Ok(_))) {
        backoff.wait().await;
    }
}

/// Returns once it answers 2xx or 3xx.
pub async fn answers(address: SocketAddr, path: &str) {
    let is_good = |status: StatusCode| status.is_success() || status.is_redirection();
    let mut backoff = Backoff::new(FIRST, MAX);
    while !matches!(within(ask(address, Method::GET, path, Bytes::new())).await, Some(Ok(status)) if is_good(status))
    {
        backoff.wait().await;
    }
}

/// Tells a hot application of its session, once. Anything but a timely 2xx is a failure, in words
/// that name the path.
pub async fn tell(
    address: SocketAddr,
    path: String,
    session: Bytes,
    patience: Duration,
) -> Result<(), (EndReason, String)> {
    let told = timeout(patience, ask(address, Method::POST, &path, session)).await;
    match told {
        Ok(Ok(status)) if status.is_success() => Ok(()),
        Ok(Ok(status)) => Err((
            EndReason::ExitedBeforeReady,
            format!("it answered its claim, POST {path}, with {status} instead of a 2xx"),
        )),
        Ok(Err(error)) => {
            Err((EndReason::ExitedBeforeReady, format!("it did not answer its claim, POST {path}: {error}")))
        }
        Err(_) => Err((
            EndReason::StartTimeout,
            format!("it did not answer its claim, POST {path}, within {} seconds", patience.as_secs()),
        )),
    }
}

async fn within<T>(attempt: impl Future<Output = T>) -> Option<T> {
    timeout(Duration::from_secs(TRY_SECONDS_MAX), attempt).await.ok()
}

/// One request on a connection of its own. Of the answer, only the status counts.
async fn ask(address: SocketAddr, method: Method, path: &str, body: Bytes) -> Result<StatusCode, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| text(&error))?;
    stream.set_nodelay(true).map_err(|error| text(&error))?;
    let (answer, question) = stream.into_split();
    let stream = tokio::io::join(answer.take(ANSWER_BYTES_MAX), question);
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| text(&error))?;
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| text(&error))?;
    tokio::select! {
        biased;
        answer = sender.send_request(request) => {
            answer.map(|answer| answer.status()).map_err(|error| text(&error))
        }
        // Its end may come together with the answer, and an answer is what counts.
        () = async { drop(connection.await); std::future::pending().await } => Err("the connection broke".to_owned()),
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
        tokio::join!(answers(address, "/healthy"), server);
    }

    #[tokio::test]
    async fn an_answer_that_never_begins_is_read_no_further() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endless = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (interim, mut written) = (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(1000), 0);
            while stream.write_all(&interim).await.is_ok() {
                written += interim.len();
                assert!(written < 1 << 30, "it is read for ever");
            }
        };
        let asked = ask(address, Method::GET, "/healthy", Bytes::new());
        let (answer, ()) =
            timeout(Duration::from_secs(10), async { tokio::join!(asked, endless) }).await.expect("its end");
        assert!(answer.is_err(), "{answer:?}");
    }
}
