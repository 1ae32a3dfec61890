//! A middlebox for messages between a drone and the controllers: it delays them, delivers them twice and in another order,
//! loses their answers. It works on whole HTTP requests, because what the network does to packets TCP hides. A message
//! that its sender has given up still arrives.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::places::{CONTROLLERS, DRONES, Part, RELAY};
use crate::schedule::Dice;

const DIAL: Duration = Duration::from_secs(5);
const BODY_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mischief {
    Delay,
    Duplicate,
    Reorder,
    LoseReplies,
    /// Two questions for everything that a drone has arrive together, where both are asked in this time.
    Pair,
}

impl Mischief {
    const DELAY_MS_MAX: u64 = 2500;
    /// One of so many is held back until another has overtaken it, or for so long.
    const HELD_BACK_ONE_IN: u64 = 2;
    const HELD_BACK_MAX: Duration = Duration::from_millis(3500);
    const SECOND_COPY_MS_MAX: u64 = 9000;
    const REPLIES_LOST_ONE_IN: u64 = 2;
    /// Shorter than a controller waits for the answer.
    const PAIR_MAX: Duration = Duration::from_millis(2500);
}

/// How many messages were treated so.
#[derive(Debug, Default)]
pub struct Treated {
    pub delayed: AtomicUsize,
    pub duplicated: AtomicUsize,
    /// Delivered after one that was sent later.
    pub overtaken: AtomicUsize,
    pub unanswered: AtomicUsize,
    /// Of two comparisons at once.
    pub paired: AtomicUsize,
}

/// The order of one drone's messages, both ways.
#[derive(Debug, Default)]
struct Order {
    sent: AtomicU64,
    /// The latest that was delivered.
    delivered: watch::Sender<u64>,
}

struct Tools {
    treated: Treated,
    dice: Mutex<Dice>,
    /// One that waits for another, of each drone.
    alone: Mutex<BTreeMap<String, oneshot::Sender<()>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Tools {
    fn below(&self, end: u64) -> u64 {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).below(end)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

pub struct Relay {
    /// Of (drone, whom to): the drone itself, or a controller on the drone's behalf.
    ports: BTreeMap<(u8, Part), u16>,
    mischief: BTreeMap<u8, watch::Sender<Option<Mischief>>>,
    tools: Arc<Tools>,
}

/// Where a connection through the relay leads, and what is done to it.
#[derive(Clone)]
struct Way {
    target: String,
    mischief: watch::Receiver<Option<Mischief>>,
    order: Arc<Order>,
    tools: Arc<Tools>,
}

impl Relay {
    pub async fn start(seed: u64) -> anyhow::Result<Self> {
        let tools = Arc::new(Tools {
            treated: Treated::default(),
            dice: Mutex::new(Dice::new(seed)),
            alone: Mutex::default(),
            tasks: Mutex::default(),
        });
        let mut relay = Self { ports: BTreeMap::new(), mischief: BTreeMap::new(), tools };
        for drone in 1..=DRONES {
            let (sender, mischief) = watch::channel(None);
            let order = Arc::new(Order::default());
            let mut targets = vec![Part::Drone(drone)];
            targets.extend((1..=CONTROLLERS).map(Part::Controller));
            for target in targets {
                let listener = TcpListener::bind((RELAY, 0)).await.context("the relay's address")?;
                relay.ports.insert((drone, target), listener.local_addr()?.port());
                let (mischief, order, tools) = (mischief.clone(), order.clone(), relay.tools.clone());
                let way = Way { target: target.address(), mischief, order, tools };
                relay.tools.spawn(listen(listener, way));
            }
            relay.mischief.insert(drone, sender);
        }
        Ok(relay)
    }

    /// Towards the drone, and towards the controller.
    pub fn ports(&self, drone: u8, controller: u8) -> (u16, u16) {
        let port = |target| self.ports.get(&(drone, target)).copied().unwrap_or(0);
        (port(Part::Drone(drone)), port(Part::Controller(controller)))
    }

    pub fn treated(&self) -> &Treated {
        &self.tools.treated
    }

    /// What to do from now on; with nothing to do, every connection that goes through here is ended.
    pub fn set(&self, drone: u8, mischief: Option<Mischief>) {
        if let Some(sender) = self.mischief.get(&drone) {
            sender.send_replace(mischief);
        }
    }
}

async fn listen(listener: TcpListener, way: Way) {
    while let Ok((stream, _)) = listener.accept().await {
        let (for_requests, state) = (way.clone(), way.mischief.clone());
        way.tools.spawn(async move {
            let service = hyper::service::service_fn(move |request| pass(request, for_requests.clone()));
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                () = over(state) => {}
            }
        });
    }
}

async fn over(mut mischief: watch::Receiver<Option<Mischief>>) {
    let _gone = mischief.wait_for(Option::is_none).await;
}

fn lost() -> std::io::Error {
    std::io::Error::other("this answer is lost")
}

async fn pass(request: Request<Incoming>, way: Way) -> std::io::Result<Response<Incoming>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|_| lost())?.to_bytes();
    let (reply, answer) = oneshot::channel();
    let (mischief, number) = (*way.mischief.borrow(), way.order.sent.fetch_add(1, Ordering::Relaxed) + 1);
    if mischief == Some(Mischief::Duplicate) {
        way.tools.treated.duplicated.fetch_add(1, Ordering::Relaxed);
        again(head.clone(), body.clone(), &way);
    }
    let is_lost =
        mischief == Some(Mischief::LoseReplies) && way.tools.below(Mischief::REPLIES_LOST_ONE_IN) == 0;
    if mischief == Some(Mischief::Pair) && head.method == "GET" && head.uri.path() == "/b" {
        way.pair().await;
    }
    let on = way.clone();
    way.tools.spawn(async move {
        on.late(mischief, number).await;
        let is_latest = on.order.delivered.send_if_modified(|latest| {
            let is_latest = *latest < number;
            *latest = number.max(*latest);
            is_latest
        });
        on.tools.treated.overtaken.fetch_add(usize::from(!is_latest), Ordering::Relaxed);
        let answer = send(head, body, &on.target, &on.tools).await;
        // Whoever asked may have hung up.
        let _given = reply.send(answer);
    });
    let response = answer.await.map_err(|_| lost())?.map_err(|_| lost())?;
    if is_lost {
        way.tools.treated.unanswered.fetch_add(1, Ordering::Relaxed);
        return Err(lost());
    }
    Ok(response)
}

/// The second copy of a message, late; its answer is nobody's.
fn again(head: hyper::http::request::Parts, body: Bytes, way: &Way) {
    let (late, way) = (Duration::from_millis(way.tools.below(Mischief::SECOND_COPY_MS_MAX)), way.clone());
    way.tools.clone().spawn(async move {
        tokio::time::sleep(late).await;
        if let Ok(response) = send(head, body, &way.target, &way.tools).await {
            let _read = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        }
    });
}

impl Way {
    /// Waits for as long as this message is to be late.
    async fn late(&self, mischief: Option<Mischief>, number: u64) {
        match mischief {
            Some(Mischief::Delay) => {
                self.tools.treated.delayed.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(self.tools.below(Mischief::DELAY_MS_MAX))).await;
            }
            Some(Mischief::Reorder) if self.tools.below(Mischief::HELD_BACK_ONE_IN) == 0 => {
                let mut delivered = self.order.delivered.subscribe();
                let overtaken = delivered.wait_for(|latest| *latest > number);
                let _overtaken_or_late = tokio::time::timeout(Mischief::HELD_BACK_MAX, overtaken).await;
            }
            Some(Mischief::Reorder | Mischief::Duplicate | Mischief::LoseReplies | Mischief::Pair) | None => {
            }
        }
    }

    /// Waits for another one that is about to say the same.
    async fn pair(&self) {
        let alone = || self.tools.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let first = alone().remove(&self.target);
        if first.is_some_and(|first| first.send(()).is_ok()) {
            self.tools.treated.paired.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (sender, second) = oneshot::channel();
        alone().insert(self.target.clone(), sender);
        let _paired_or_alone = tokio::time::timeout(Mischief::PAIR_MAX, second).await;
    }
}

async fn send(
    head: hyper::http::request::Parts,
    body: Bytes,
    target: &str,
    tools: &Tools,
) -> anyhow::Result<Response<Incoming>> {
    let stream = tokio::time::timeout(DIAL, TcpStream::connect(target)).await??;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tools.spawn(async move {
        let _ended = connection.await;
    });
    let mut head = head;
    // The body is whole now; its length is set anew.
    head.headers.remove("transfer-encoding");
    head.headers.remove("content-length");
    let body = Full::new(body).map_err(|never: Infallible| match never {});
    Ok(sender.send_request(Request::from_parts(head, body)).await?)
}
