//! HTTP/2 over one connection, as a client that does what a test says.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

pub const IN_TIME: Duration = Duration::from_secs(10);

pub struct Http2 {
    pub sender: SendRequest<Bytes>,
    /// How the connection ended.
    pub end: oneshot::Receiver<Result<(), h2::Error>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Whole {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
    pub trailers: HeaderMap,
}

impl Whole {
    pub fn code(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        json["code"].as_str().unwrap().to_owned()
    }
}

impl Http2 {
    pub async fn connect(proxy: SocketAddr) -> Self {
        let stream = TcpStream::connect(proxy).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await
    }

    pub async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        // What one stream does not read must not keep the others from being read here.
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(16 * 1024 * 1024);
        let (sender, connection) = builder.handshake(stream).await.unwrap();
        let (tell, end) = oneshot::channel();
        #[expect(
            clippy::disallowed_methods,
            reason = "a test's client is no part of a process that is stopped"
        )]
        tokio::spawn(async move { tell.send(connection.await) });
        Self { sender, end }
    }

    pub async fn start(&mut self, request: Request<()>, ends: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let sender = timeout(IN_TIME, self.sender.clone().ready()).await.unwrap();
        let mut sender = sender.unwrap_or_else(|error| panic!("no more requests: {error}"));
        sender.send_request(request, ends).unwrap()
    }

    pub async fn get(&mut self, path: &str) -> Whole {
        let (answer, _) = self.start(request(Method::GET, path), true).await;
        whole(answer).await
    }

    /// A request with a body and perhaps trailers.
    pub async fn post(&mut self, request: Request<()>, body: &[u8], trailers: Option<HeaderMap>) -> Whole {
        let (answer, mut stream) = self.start(request, false).await;
        stream.send_data(Bytes::copy_from_slice(body), trailers.is_none()).unwrap();
        if let Some(trailers) = trailers {
            stream.send_trailers(trailers).unwrap();
        }
        whole(answer).await
    }
}

pub fn request(method: Method, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://example.com{path}")).body(()).unwrap()
}

pub async fn head(answer: ResponseFuture) -> Result<Response<RecvStream>, h2::Error> {
    timeout(IN_TIME, answer).await.expect("an answer in time")
}

pub async fn whole(answer: ResponseFuture) -> Whole {
    let (parts, mut body) = head(answer).await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(more) = next(&mut body).await {
        bytes.extend_from_slice(&more.unwrap());
    }
    let trailers = timeout(IN_TIME, body.trailers()).await.unwrap().unwrap().unwrap_or_default();
    let (status, headers) = (parts.status, parts.headers);
    Whole { status, headers, body: String::from_utf8(bytes).unwrap(), trailers }
}

/// The next of a body, which makes room for more.
pub async fn next(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let more = timeout(IN_TIME, body.data()).await.expect("a body in time")?;
    if let Ok(more) = &more {
        body.flow_control().release_capacity(more.len()).unwrap();
    }
    Some(more)
}
