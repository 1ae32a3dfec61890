//! A client's own connection to a proxy, HTTP/1.1 or HTTP/2 with prior knowledge, so that it is known which requests went over the
//! same one. It repeats nothing by itself.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::places::Part;

const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub path: String,
    pub accept: &'static str,
    pub lines: Vec<(&'static str, String)>,
    /// A `POST` with it; else a `GET`.
    pub body: Option<String>,
}

pub struct Answer {
    pub status: u16,
    pub body: String,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

pub struct Line {
    sender: Sender,
    authority: String,
    /// Ends with the line.
    _connection: JoinSet<()>,
}

impl Line {
    pub async fn open(proxy: u8, protocol: Protocol) -> Result<Self, String> {
        let authority = Part::Proxy(proxy).address();
        let stream = TcpStream::connect(&authority).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (io, mut tasks) = (TokioIo::new(stream), JoinSet::new());
        let said = |error: hyper::Error| error.to_string();
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.map_err(said)?;
                tasks.spawn(async move { drop(connection.await) });
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(said)?;
                tasks.spawn(async move { drop(connection.await) });
                Sender::Http2(sender)
            }
        };
        Ok(Self { sender, authority, _connection: tasks })
    }

    /// Another way to ask over the same connection, at the same time; HTTP/1.1 has none.
    pub fn beside(&self) -> Option<Self> {
        let Sender::Http2(sender) = &self.sender else { return None };
        let sender = Sender::Http2(sender.clone());
        Some(Self { sender, authority: self.authority.clone(), _connection: JoinSet::new() })
    }

    pub async fn ask(&mut self, ask: &Ask) -> Result<Answer, String> {
        let method = if ask.body.is_some() { Method::POST } else { Method::GET };
        let uri = match self.sender {
            Sender::Http1(_) => format!("/{}", ask.path),
            Sender::Http2(_) => format!("http://{}/{}", self.authority, ask.path),
        };
        let mut request = Request::builder().method(method).uri(uri).header(header::ACCEPT, ask.accept);
        if matches!(self.sender, Sender::Http1(_)) {
            request = request.header(header::HOST, &self.authority);
        }
        for (name, value) in &ask.lines {
            request = request.header(*name, value);
        }
        let body = Full::from(ask.body.clone().unwrap_or_default());
        let request = request.body(body).map_err(|error| error.to_string())?;
        let said = |error: hyper::Error| match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        let answer = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(said)?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(said)?;
                sender.send_request(request).await
            }
        };
        let answer = answer.map_err(said)?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("{status}, and then: {error}"))?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }
}
