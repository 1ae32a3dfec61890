//! Plain HTTP/1.1 between our own processes: kept connections, each driven by the call that has it. There is no task beside
//! it that would have to be woken for each request and each answer, which cost as much as all the rest of a short call.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, MutexGuard};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{CONNECT_TIMEOUT, POOL_IDLE, root_cause};

/// Kept idle for one peer; more are closed once their call is over.
const IDLE_MAX: usize = 256;
const PORT: u16 = 80;

/// Why there is no answer. How long to wait is the caller's business: dropping a call closes its connection.
#[derive(Debug)]
pub enum Failure {
    /// No connection was made.
    NotSent(String),
    /// It may have been seen.
    Broken(String),
}

#[derive(Debug, Default)]
pub struct Wire {
    pool: Mutex<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    idle: HashMap<String, Vec<Idle>>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Idle {
    open: Open,
    since: Instant,
}

#[derive(Debug)]
struct Open {
    requests: SendRequest<Full<Bytes>>,
    connection: Connection<TokioIo<TcpStream>, Full<Bytes>>,
}

/// Where a plain URL leads: host and port, and the path. `None`: it needs more than this client knows.
pub fn parts(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let slash = rest.find('/')?;
    let (authority, path) = rest.split_at(slash);
    let is_plain = !authority.is_empty()
        && authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    is_plain.then_some((authority, path))
}

impl Wire {
    /// One exchange. A request that a kept connection turned out to be unable to carry is sent on another one; where it may have
    /// been seen, it is not sent again.
    pub async fn exchange(
        &self,
        method: Method,
        (authority, path): (&str, &str),
        authorization: &HeaderValue,
        body: Option<Bytes>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let mut request = request(method, (authority, path), authorization, body)?;
        while let Some(mut open) = self.kept(authority).await {
            match open.carry(request).await {
                Ok(answer) => return Ok(self.keep(authority, open, answer)),
                Err(Lost { unseen: Some(unseen), .. }) => request = unseen,
                Err(lost) => return Err(Failure::Broken(lost.reason)),
            }
        }
        let mut open = connect(authority).await?;
        match open.carry(request).await {
            Ok(answer) => Ok(self.keep(authority, open, answer)),
            Err(lost) => Err(Failure::Broken(lost.reason)),
        }
    }

    /// The one that was used last, so that those that are not needed grow old.
    async fn kept(&self, authority: &str) -> Option<Open> {
        loop {
            let idle = self.lock().idle.get_mut(authority)?.pop()?;
            let mut open = idle.open;
            if idle.since.elapsed() < POOL_IDLE && open.is_open().await {
                return Some(open);
            }
        }
    }

    fn keep<T>(&self, authority: &str, open: Open, (answer, is_open): (T, bool)) -> T {
        if is_open && open.requests.is_ready() {
            let now = Instant::now();
            let mut pool = self.lock();
            pool.sweep(now);
            // A peer's name is copied once, not for each call.
            if !pool.idle.contains_key(authority) {
                pool.idle.insert(authority.to_owned(), Vec::new());
            }
            if let Some(idle) = pool.idle.get_mut(authority).filter(|idle| idle.len() < IDLE_MAX) {
                idle.push(Idle { open, since: now });
            }
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock()
    }
}

impl Pool {
    /// Closes what nobody has used for long, also of peers that nobody asks any more.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| swept + POOL_IDLE > now) {
            return;
        }
        self.swept = Some(now);
        self.idle.retain(|_, idle| {
            idle.retain(|one| one.since + POOL_IDLE > now);
            !idle.is_empty()
        });
    }
}

fn request(
    method: Method,
    (authority, path): (&str, &str),
    authorization: &HeaderValue,
    body: Option<Bytes>,
) -> Result<Request<Full<Bytes>>, Failure> {
    let unusable = |error: http::Error| Failure::Broken(error.to_string());
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(header::HOST, HeaderValue::from_str(authority).map_err(|e| unusable(e.into()))?);
    headers.insert(header::AUTHORIZATION, authorization.clone());
    if body.is_some() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let mut request = Request::new(Full::new(body.unwrap_or_default()));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse::<Uri>().map_err(|error| unusable(error.into()))?;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn connect(authority: &str) -> Result<Open, Failure> {
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let connecting = async {
        if has_port {
            TcpStream::connect(authority).await
        } else {
            let host = authority.trim_start_matches('[').trim_end_matches(']');
            TcpStream::connect((host, PORT)).await
        }
    };
    let stream = timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| Failure::NotSent("no answer in time".to_owned()))?
        .map_err(|error| Failure::NotSent(error.to_string()))?;
    stream.set_nodelay(true).map_err(|error| Failure::NotSent(error.to_string()))?;
    let made = http1::handshake(TokioIo::new(stream)).await;
    let (requests, connection) = made.map_err(|error| Failure::NotSent(root_cause(&error)))?;
    Ok(Open { requests, connection })
}

/// A connection that ended before its answer was whole.
struct Lost {
    reason: String,
    /// Nothing of it was written.
    unseen: Option<Request<Full<Bytes>>>,
}

impl Open {
    /// Whether the peer has kept it open.
    async fn is_open(&mut self) -> bool {
        let ended = poll_fn(|context| Poll::Ready(self.poll(context).is_ready())).await;
        !ended && self.requests.is_ready()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.connection).poll(context).map(|_ended_or_broken| ())
    }

    /// Sends it and reads the whole answer; and whether the connection can carry another one.
    async fn carry(&mut self, request: Request<Full<Bytes>>) -> Result<((StatusCode, Bytes), bool), Lost> {
        let answer = self.requests.try_send_request(request);
        let answer = async {
            let response = answer.await.map_err(|mut error| {
                let unseen = error.take_message();
                Lost { reason: root_cause(&error.into_error()), unseen }
            })?;
            let status = response.status();
            let body = response.into_body().collect().await;
            let body = body.map_err(|error| Lost { reason: root_cause(&error), unseen: None })?;
            Ok((status, body.to_bytes()))
        };
        let mut answer = pin!(answer);
        let connection = &mut self.connection;
        let mut ended = false;
        let mut drive = |context: &mut Context<'_>| {
            ended = ended || Pin::new(&mut *connection).poll(context).is_ready();
            ended
        };
        let answer = poll_fn(|context| {
            // The connection hands over first the head and then, once it is asked for, the body. Once more now is
            // cheaper than being woken for it.
            for _ in 0..2 {
                drive(context);
                if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                    return Poll::Ready(answer);
                }
            }
            Poll::Pending
        })
        .await?;
        // It becomes ready for another one when it is told that this answer was read.
        let is_open = poll_fn(|context| Poll::Ready(!drive(context))).await;
        Ok((answer, is_open))
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
