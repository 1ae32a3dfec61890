//! A server of ours over HTTP/1.1: connections are accepted up to a limit, each has a timer for its requests' heads,
//! and all of them end with the process. What is answered is the caller's business.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tower::Service;
use tower::util::MapRequest;

use crate::lifecycle::Lifecycle;
use crate::lines::Lines;

/// After a failed accept (too many open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// From the stop on, for answers that are under way. A client that does not read its own keeps no process from ending.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
static NOT_ACCEPTED: Lines = Lines::new(1, Duration::from_secs(10));

/// A connection's place among those that may be open at once. It is in the extensions of the connection's requests:
/// whoever upgrades one keeps it for as long as the upgraded connection lasts.
#[derive(Debug, Clone)]
pub struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open at once; further ones wait in the kernel's queue.
    pub connections: u32,
    /// For a request's head, and for an idle connection's next one: longer than the clients keep theirs.
    pub head: Duration,
}

/// Serves until the lifecycle stops; then no connection is accepted any more, and each ends after the request it is
/// busy with, or after [`LAST_ANSWERS`]. The task ends when the last connection has.
pub fn serve<S, B>(listener: TcpListener, service: S, limits: Limits, lifecycle: &Lifecycle) -> JoinHandle<()>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Buf + Send,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let life = lifecycle.clone();
    lifecycle.spawn(async move {
        let connections = Arc::new(Semaphore::new(limits.connections as usize));
        tokio::select! {
            () = life.stopping() => {}
            () = accept(listener, service, limits, &connections, &life) => {}
        }
        let _all_have_ended = connections.acquire_many(limits.connections).await;
    })
}

async fn accept<S, B>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    connections: &Arc<Semaphore>,
    lifecycle: &Lifecycle,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Buf + Send,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let (service, life) = (service.clone(), lifecycle.clone());
                let place = Place { _permit: Arc::new(permit) };
                lifecycle.spawn(async move {
                    let service = MapRequest::new(service, move |mut request: Request<Incoming>| {
                        request.extensions_mut().insert(place.clone());
                        request
                    });
                    connection(stream, from, service, limits.head, LAST_ANSWERS, &life).await;
                });
            }
            Err(error) => {
                if let Some(left_out) = NOT_ACCEPTED.tell() {
                    tracing::warn!(%error, left_out, "a connection cannot be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<S, B>(
    stream: TcpStream,
    from: SocketAddr,
    service: S,
    head: Duration,
    last_answers: Duration,
    lifecycle: &Lifecycle,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Buf + Send,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    crate::socket::prepare(&stream);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = lifecycle.stopping() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(last_answers, connection).await {
                Ok(served) => served,
                Err(_) => return tracing::info!(%from, "a connection is cut: its last answer was not read in time"),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%from, %error, "a connection broke");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// More than the buffers of two sockets take.
    const LONG_BYTES: usize = 32 * 1024 * 1024;

    /// Greets, and at `/long` does not come to an end.
    #[derive(Clone)]
    struct Hello;

    impl Service<Request<Incoming>> for Hello {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<String>, Infallible>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Incoming>) -> Self::Future {
            let long = request.uri().path() == "/long";
            std::future::ready(Ok(Response::new(if long {
                "x".repeat(LONG_BYTES)
            } else {
                "hello".to_owned()
            })))
        }
    }

    async fn started(limits: Limits) -> (SocketAddr, Lifecycle, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, lifecycle) = (listener.local_addr().unwrap(), Lifecycle::new());
        let server = serve(listener, Hello, limits, &lifecycle);
        (address, lifecycle, server)
    }

    async fn said(stream: &mut TcpStream) -> Bytes {
        let mut bytes = vec![0; 1024];
        let read = stream.read(&mut bytes);
        let n = tokio::time::timeout(Duration::from_secs(10), read).await.expect("in time").unwrap();
        bytes.truncate(n);
        bytes.into()
    }

    #[tokio::test]
    async fn half_a_head_is_not_waited_for_and_a_stop_ends_idle_connections() {
        let limits = Limits { connections: 1, head: Duration::from_millis(100) };
        let (address, lifecycle, server) = started(limits).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        // The only place is the slow one's, until its time is over.
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(said(&mut next).await.ends_with(b"hello"));
        lifecycle.token().cancel();
        tokio::time::timeout(Duration::from_secs(10), server).await.expect("it ends").unwrap();
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_its_answer_keeps_no_process_from_ending() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let (stream, from) = listener.accept().await.unwrap();
        let lifecycle = Lifecycle::new();
        let (head, last_answers) = (Duration::from_secs(60), Duration::from_millis(50));
        let served = connection(stream, from, Hello, head, last_answers, &lifecycle);
        let reads_a_little_and_stops = async {
            assert!(!said(&mut client).await.is_empty());
            lifecycle.token().cancel();
        };
        let both = async { tokio::join!(served, reads_a_little_and_stops) };
        tokio::time::timeout(Duration::from_secs(10), both).await.expect("the connection is cut");
    }
}
