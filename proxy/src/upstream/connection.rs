//! Connections to backends. One belongs to one client connection and is never shared with another:
//! bytes that a client could smuggle past the framing meet only its own requests.

use std::sync::{Arc, Weak};
use std::task::Context;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use jetway_protocol::drone_api::DIAL_MAX;
use jetway_protocol::spec::{Port, Protocol};
use jetway_service::lifecycle::Lifecycle;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::attach::Gate;
use crate::io::executor::Tasks;
use crate::io::socket::Socket;
use crate::problem::Problem;
use crate::upstream::dial;
use crate::upstream::dial_target::DialTarget;
use crate::upstream::inline::{BodyStart, InlineConnection};
use crate::upstream::interim::{Watch, Watched};
use crate::upstream::request_body::RequestBody;

/// Less than backends keep an idle connection (Node: 5 s).
pub const IDLE_MAX: Duration = Duration::from_secs(4);
/// After its response, a connection is ready for the next request at once, or it is of no use.
const READY_MAX: Duration = Duration::from_millis(100);
/// After a grant's end, a client connection that still carries something of it has this long.
const NOTICE_MAX: Duration = Duration::from_secs(1);
/// Of an answer's head, empty lines before it included. Both lanes have this bound.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
const READ_BUFFER_BYTES_MAX: usize = HEAD_BYTES_MAX;
/// HTTP/2 to a backend: what one response may have on its way, and all of a connection's.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// An application that was stopped in its tracks answers no PING; the kernel answers for it as long
/// as it lives.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_MAX: Duration = Duration::from_secs(30);

/// Where an upstream leads. The gate is the grant's: equal means the same backend, run and grant,
/// and a grant that was given anew gets connections of its own.
#[derive(Debug, Clone)]
pub struct Leads {
    gate: Weak<Gate>,
    pub port: Port,
}

#[derive(Debug)]
pub struct Upstream {
    sender: Sender,
    leads: Leads,
    watch: Watch,
    idle_since: Instant,
    /// Ends the connection's task, wherever it stands, when the last holder is gone.
    end: Arc<DropGuard>,
    /// `None`: the connection has a task.
    driven: Option<InlineConnection>,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<RequestBody>),
    Two(http2::SendRequest<RequestBody>),
}

/// Dials, under an admission.
#[derive(Debug)]
pub struct Dialer {
    pub lifecycle: Lifecycle,
    /// The credential for drones.
    pub bearer: String,
}

/// In which task a new connection goes on.
#[derive(Debug, Clone, Copy)]
pub enum Driver {
    /// That of the client's connection, where it carries one request at a time in HTTP/1.1.
    Client,
    Own,
}

impl Leads {
    pub fn to(gate: &Arc<Gate>, port: Port) -> Self {
        Self { gate: Arc::downgrade(gate), port }
    }

    /// Whether requests can share one connection.
    pub fn is_shared(&self) -> bool {
        self.port.protocol == Protocol::H2c
    }
}

impl Upstream {
    /// Keeps it for the client connection's next request.
    pub fn now_idle(mut self) -> Self {
        self.idle_since = Instant::now();
        self
    }

    /// Another handle of the same connection, where it carries requests side by side.
    pub fn shared(&self) -> Option<Self> {
        let Sender::Two(sender) = &self.sender else { return None };
        Some(Self {
            sender: Sender::Two(sender.clone()),
            leads: self.leads.clone(),
            watch: self.watch.clone(),
            idle_since: self.idle_since,
            end: self.end.clone(),
            driven: None,
        })
    }

    pub fn is_the_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.end, &other.end)
    }

    pub fn leads_to(&self, leads: &Leads) -> bool {
        self.leads.gate.ptr_eq(&leads.gate) && self.leads.port == leads.port
    }

    /// Whether it may still be of use to anybody.
    pub fn is_fresh(&self) -> bool {
        let open = self.leads.gate.upgrade().is_some_and(|gate| !gate.is_closing());
        open && match &self.sender {
            Sender::One(sender) => !sender.is_closed() && self.idle_since.elapsed() < IDLE_MAX,
            // Others may use it right now; a backend that closes it says so.
            Sender::Two(sender) => !sender.is_closed(),
        }
    }

    /// Whether the task of the client's connection drives it.
    pub fn is_driven(&self) -> bool {
        self.driven.is_some()
    }

    /// While it waits for a next request, at each turn of that task: whether it may.
    pub fn waits(&mut self, cx: &mut Context<'_>) -> bool {
        self.driven.as_mut().is_none_or(|driven| driven.waits(cx))
    }

    /// The part of the answer's body that has come, of one that is driven.
    pub async fn take(&mut self, body: &mut Incoming) -> hyper::Result<BodyStart> {
        match &mut self.driven {
            Some(driven) => driven.take(body).await,
            None => Ok(BodyStart::Part(None)),
        }
    }

    /// From now on it goes on in a task of its own.
    pub fn go_by_itself(&mut self, dialer: &Dialer, cut: Option<CancellationToken>) {
        let Some((Some(connection), gate)) = self.driven.take().map(InlineConnection::into_parts) else {
            return;
        };
        let end = CancellationToken::new();
        dialer.carry(connection, None, &gate, &end, cut);
        self.end = Arc::new(end.drop_guard());
    }

    /// Whether it takes a request now.
    pub async fn is_ready(&mut self) -> bool {
        let ready = async {
            match (&mut self.sender, &mut self.driven) {
                (Sender::One(sender), Some(driven)) => driven.drive(sender.ready()).await,
                (Sender::One(sender), None) => sender.ready().await,
                (Sender::Two(sender), _) => sender.ready().await,
            }
        };
        timeout(READY_MAX, ready).await.is_ok_and(|ready| ready.is_ok())
    }

    /// Its backend has sent more interim answers than are taken: it is of no more use.
    pub fn is_flooding(&self) -> bool {
        self.watch.is_over()
    }

    pub async fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        if matches!(self.sender, Sender::One(_)) {
            self.watch.listen(&mut request);
        }
        match (&mut self.sender, &mut self.driven) {
            (Sender::One(sender), Some(driven)) => driven.drive(sender.try_send_request(request)).await,
            (Sender::One(sender), None) => sender.try_send_request(request).await,
            (Sender::Two(sender), _) => sender.try_send_request(request).await,
        }
    }
}

impl Dialer {
    /// Nothing has been sent over it. [`Problem::DroneSilent`]: the drone no longer vouches for the
    /// address, and is to be asked again.
    async fn open(&self, call: &DialTarget<'_>) -> Result<Socket, Problem> {
        let socket = dial::open(&self.lifecycle, &self.bearer, call).await?;
        if call.is_vouched() { Ok(socket) } else { Err(Problem::DroneSilent) }
    }

    /// A socket of the caller's own, to a backend of HTTP/1.1.
    pub async fn dial_bare(&self, call: &DialTarget<'_>) -> Result<TcpStream, Problem> {
        let socket = timeout(DIAL_MAX, self.open(call)).await.unwrap_or(Err(Problem::ConnectTimeout))?;
        let (stream, ahead) =
            socket.into_tcp().map_err(|_| Problem::Internal("a backend's connection is no socket"))?;
        // An answer before the first request belongs to none.
        if ahead.is_empty() { Ok(stream) } else { Err(Problem::Terminated) }
    }

    pub async fn dial(
        &self,
        leads: &Leads,
        gate: &Arc<Gate>,
        call: &DialTarget<'_>,
        driver: Driver,
    ) -> Result<Upstream, Problem> {
        let (token, watch) = (CancellationToken::new(), Watch::default());
        let connect = async {
            let socket = self.open(call).await?;
            self.handshake((socket, watch.clone()), leads.port.protocol, gate, &token, driver).await
        };
        let connected = timeout(DIAL_MAX, connect).await.unwrap_or(Err(Problem::ConnectTimeout));
        let (sender, driven) = connected?;
        let (leads, end) = (leads.clone(), Arc::new(token.drop_guard()));
        Ok(Upstream { sender, leads, watch, idle_since: Instant::now(), end, driven })
    }

    async fn handshake(
        &self,
        (socket, watch): (Socket, Watch),
        protocol: Protocol,
        gate: &Arc<Gate>,
        end: &CancellationToken,
        driver: Driver,
    ) -> Result<(Sender, Option<InlineConnection>), Problem> {
        let is_quiet = socket.has_nothing_ahead();
        match protocol {
            // An answer before the first request belongs to none.
            Protocol::Http1 if !is_quiet => Err(Problem::Terminated),
            Protocol::Http1 => {
                let stream = TokioIo::new(Watched::http_1(socket, watch));
                let mut builder = http1::Builder::new();
                builder.max_buf_size(READ_BUFFER_BYTES_MAX).max_header_size(HEAD_BYTES_MAX);
                let (sender, connection) =
                    builder.handshake(stream).await.map_err(|_| Problem::Terminated)?;
                let connection = connection.with_upgrades();
                let driven = match driver {
                    Driver::Client => Some(InlineConnection::new(Box::pin(connection), gate.clone())),
                    Driver::Own => {
                        self.carry(connection, None, gate, end, None);
                        None
                    }
                };
                Ok((Sender::One(sender), driven))
            }
            Protocol::H2c => {
                let stream = TokioIo::new(Watched::http_2(socket, watch));
                // Parts of the connection run in tasks of their own, which must not outlive it.
                let parts = CancellationToken::new();
                let tasks = Tasks { lifecycle: self.lifecycle.clone(), end: parts.clone() };
                let (sender, connection) = http2::Builder::new(tasks)
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .max_send_buf_size(SEND_BUFFER_BYTES)
                    .keep_alive_interval(PING_EVERY)
                    .keep_alive_timeout(PONG_MAX)
                    .handshake(stream)
                    .await
                    .map_err(|_| Problem::Terminated)?;
                self.carry(connection, Some(parts.drop_guard()), gate, end, None);
                Ok((Sender::Two(sender), None))
            }
        }
    }

    /// The task of one connection. `cut`: ends the client's connection, if it does not let go of
    /// what it carries after the gate has closed.
    fn carry(
        &self,
        connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
        parts: Option<DropGuard>,
        gate: &Arc<Gate>,
        end: &CancellationToken,
        cut: Option<CancellationToken>,
    ) {
        let (end, gate) = (end.clone(), gate.clone());
        self.lifecycle.spawn(async move {
            let mut connection = Box::pin(connection);
            tokio::select! {
                ended = &mut connection => {
                    if let Err(reason) = ended {
                        tracing::debug!(%reason, "a connection to a backend broke");
                    }
                }
                () = end.cancelled() => {}
                _ = gate.closed() => {
                    // The socket goes now. The client has been answered, or its response broken
                    // off, in a moment; one that does not read would never notice.
                    drop((connection, parts, gate));
                    if let Some(cut) = cut
                        && timeout(NOTICE_MAX, end.cancelled()).await.is_err()
                    {
                        cut.cancel();
                    }
                }
            }
        });
    }
}
