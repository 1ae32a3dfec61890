//! Connections to backends. One belongs to one client connection and is never shared: what a client could smuggle
//! past the framing meets only its own requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use jetway_protocol::drone_api::{DIAL_PROTOCOL, FENCING_HEADER};
use jetway_service::lifecycle::Lifecycle;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::answer::Problem;
use crate::attach::{BackendKey, Door, Gate};
use crate::body::RequestBody;

/// To a ready backend on the same network, or to its drone.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Below what backends wait before they drop an idle connection (Node: 5 s).
const IDLE_MAX: Duration = Duration::from_secs(4);
/// After its response, a connection is ready for the next request at once, or it is of no use.
const READY_MAX: Duration = Duration::from_millis(100);
/// After a grant's end, a client connection that still carries something of it has this long.
const NOTICE_MAX: Duration = Duration::from_secs(1);
const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub struct Upstream {
    pub sender: SendRequest<RequestBody>,
    gate: Arc<Gate>,
    idle_since: Instant,
    /// Ends the connection's task, wherever it stands.
    _end: DropGuard,
}

/// What dialling needs besides the admission.
#[derive(Debug)]
pub struct Dialer {
    pub lifecycle: Lifecycle,
    /// The credential for drones.
    pub bearer: String,
}

impl Upstream {
    /// Keeps it for the client connection's next request.
    pub fn now_idle(mut self) -> Self {
        self.idle_since = Instant::now();
        self
    }

    /// Whether it can take a request under this gate. The gate is the grant's: equal means the same backend, run and
    /// grant, and a grant that was given anew gets a connection of its own.
    pub async fn is_good_for(&mut self, gate: &Arc<Gate>) -> bool {
        Arc::ptr_eq(&self.gate, gate)
            && !gate.is_closed()
            && self.idle_since.elapsed() < IDLE_MAX
            && timeout(READY_MAX, self.sender.ready()).await.is_ok_and(|ready| ready.is_ok())
    }
}

impl Dialer {
    pub async fn dial(
        &self,
        key: &BackendKey,
        address: std::net::SocketAddr,
        door: &Door,
        gate: &Arc<Gate>,
        cut: &CancellationToken,
    ) -> Result<Upstream, Problem> {
        let connect = async {
            let stream = match door {
                Door::Direct => direct(address).await?,
                Door::Drone(server) => self.through_drone(server, key).await?,
            };
            let mut builder = http1::Builder::new();
            builder.max_buf_size(READ_BUFFER_BYTES_MAX);
            builder.handshake(TokioIo::new(stream)).await.map_err(|_| Problem::Terminated)
        };
        let (sender, connection) =
            timeout(CONNECT_MAX, connect).await.unwrap_or(Err(Problem::ConnectTimeout))?;
        let token = CancellationToken::new();
        let (end, gate_of_task, cut) = (token.clone(), gate.clone(), cut.clone());
        self.lifecycle.spawn(async move {
            let mut connection = Box::pin(connection.with_upgrades());
            tokio::select! {
                ended = &mut connection => {
                    if let Err(reason) = ended {
                        tracing::debug!(%reason, "a connection to a backend broke");
                    }
                }
                () = end.cancelled() => {}
                _ = gate_of_task.closed() => {
                    // The socket goes now. The client has been answered, or its response broken off, in a moment;
                    // one that does not read would never notice.
                    drop(connection);
                    drop(gate_of_task);
                    if timeout(NOTICE_MAX, end.cancelled()).await.is_err() {
                        cut.cancel();
                    }
                }
            }
        });
        Ok(Upstream { sender, gate: gate.clone(), idle_since: Instant::now(), _end: token.drop_guard() })
    }

    /// The byte stream that the drone's server makes of `GET /b/{id}/dial`.
    async fn through_drone(&self, server: &str, key: &BackendKey) -> Result<TcpStream, Problem> {
        let stream = TcpStream::connect(server).await.map_err(|error| connect_problem(&error))?;
        jetway_service::socket::prepare(&stream);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|_| Problem::Terminated)?;
        let driver = self.lifecycle.spawn_until_stopped(async move {
            let _its_end_is_seen_by_the_request = connection.with_upgrades().await;
        });
        let _end = AbortOnDrop(driver);
        let request = Request::get(format!("/b/{}/dial", key.backend))
            .header(HOST, server)
            .header(AUTHORIZATION, format!("Bearer {}", self.bearer))
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, DIAL_PROTOCOL)
            .header(FENCING_HEADER, key.fencing_token.0)
            .body(Empty::<Bytes>::new())
            .map_err(|_| Problem::Internal("the drone's address cannot be written as a header"))?;
        let mut response = sender.send_request(request).await.map_err(|_| Problem::Terminated)?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {}
            StatusCode::GONE | StatusCode::NOT_FOUND => return Err(Problem::Unknown),
            status => {
                tracing::debug!(%status, backend = %key.backend, "the drone does not dial");
                return Err(Problem::Refused);
            }
        }
        let upgraded = hyper::upgrade::on(&mut response).await.map_err(|_| Problem::Terminated)?;
        let parts =
            upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| Problem::Internal("not a socket"))?;
        if !parts.read_buf.is_empty() {
            // An HTTP server never speaks first.
            return Err(Problem::Terminated);
        }
        Ok(parts.io.into_inner())
    }
}

async fn direct(address: std::net::SocketAddr) -> Result<TcpStream, Problem> {
    let stream = TcpStream::connect(address).await.map_err(|error| connect_problem(&error))?;
    jetway_service::socket::prepare(&stream);
    Ok(stream)
}

fn connect_problem(error: &std::io::Error) -> Problem {
    match error.kind() {
        std::io::ErrorKind::TimedOut => Problem::ConnectTimeout,
        _ => Problem::Refused,
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
