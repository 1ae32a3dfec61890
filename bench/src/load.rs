//! The load generator. *Closed*: each connection sends its next request when it has its answer, which shows how many are
//! carried in a second. *Open*: requests are due by the clock, whoever is still busy, and a latency counts from when a request was
//! due, so that a system that stalls cannot hide it.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::http::{ANSWER_MAX, Connection};
use crate::measure::Samples;

/// Requests that wait for one connection: more than that is an overload, and is said to be one.
const WAITING_MAX: usize = 4096;

/// The nth request, as bytes.
pub type Requests = Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

#[derive(Debug, Default)]
pub struct Outcome {
    pub latency: Samples,
    pub per_second: f64,
    pub errors: u64,
    /// One of them.
    pub error: String,
}

impl Outcome {
    fn count(&mut self, since: Instant, answer: anyhow::Result<crate::http::Answer>) {
        match answer {
            Ok(answer) if answer.status == 200 => self.latency.push_time(since.elapsed()),
            Ok(answer) => self.failed(format!("{}: {}", answer.status, answer.text())),
            Err(error) => self.failed(format!("{error:#}")),
        }
    }

    fn failed(&mut self, error: String) {
        self.errors += 1;
        self.error = error;
    }

    fn add(&mut self, other: Outcome) {
        self.latency.extend(other.latency);
        self.errors += other.errors;
        if other.errors > 0 {
            self.error = other.error;
        }
    }
}

pub async fn closed(
    to: SocketAddr,
    connections: u64,
    length: Duration,
    requests: &Requests,
) -> anyhow::Result<Outcome> {
    let mut workers = JoinSet::new();
    let begin = Instant::now();
    for worker in 0..connections {
        let requests = requests.clone();
        workers.spawn(async move {
            let (mut connection, mut outcome) = (Connection::open(to).await?, Outcome::default());
            for n in (worker..).step_by(usize::try_from(connections)?) {
                if begin.elapsed() >= length {
                    break;
                }
                let (request, since) = (requests(n), Instant::now());
                let answer = connection.send(&request).await;
                let broken = answer.is_err();
                outcome.count(since, answer);
                if broken {
                    connection = Connection::open(to).await?;
                }
            }
            anyhow::Ok(outcome)
        });
    }
    let mut outcome = gather(workers).await?;
    outcome.per_second = outcome.latency.len() as f64 / begin.elapsed().as_secs_f64();
    Ok(outcome)
}

/// Each connection is a caller of its own; requests are due in turn, evenly, `rate` a second over all.
pub async fn open(
    to: SocketAddr,
    connections: u64,
    rate: f64,
    length: Duration,
    requests: &Requests,
) -> anyhow::Result<Outcome> {
    let (mut workers, mut lines) = (JoinSet::new(), Vec::new());
    for _ in 0..connections {
        let connection = Connection::open(to).await?;
        let line = Arc::new(Line::new(connection.writer()?, requests.clone()));
        lines.push(line.clone());
        workers.spawn(async move { line.answers(connection, to).await });
    }
    // A thread of its own: the runtime's clock ticks in milliseconds.
    let pace = thread::spawn(move || pace(&lines, rate, length));
    let mut outcome = gather(workers).await?;
    let late = pace.join().map_err(|_| anyhow::anyhow!("the pace panicked"))?;
    if late > 0 {
        outcome.errors += late;
        outcome.error = format!("{late} requests found {WAITING_MAX} before them");
    }
    outcome.per_second = outcome.latency.len() as f64 / length.as_secs_f64();
    Ok(outcome)
}

/// The number of requests for which there was no room.
fn pace(lines: &[Arc<Line>], rate: f64, length: Duration) -> u64 {
    // The kernel lets a thread sleep 50 µs longer than it asked for (prctl(2), PR_SET_TIMERSLACK), and that is nobody's latency.
    let _only_less_exact = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let (begin, mut refused) = (Instant::now(), 0);
    for (n, line) in (0_u64..).zip(lines.iter().cycle()) {
        let due = begin + Duration::from_secs_f64(n as f64 / rate);
        if due >= begin + length {
            break;
        }
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            thread::park_timeout(left);
        }
        refused += u64::from(!line.is_due(n, due));
    }
    for line in lines {
        line.end();
    }
    refused
}

/// One connection's requests. The thread that keeps the pace sends them itself, as long as none is before them: to wake
/// another one for it would count as the latency of what is measured.
struct Line {
    requests: Requests,
    queue: Mutex<Queue>,
    over: Notify,
}

struct Queue {
    writer: std::net::TcpStream,
    /// When it was due that is under way.
    under_way: Option<Instant>,
    waiting: VecDeque<(u64, Instant)>,
    is_over: bool,
}

impl Line {
    fn new(writer: std::net::TcpStream, requests: Requests) -> Self {
        let queue = Queue { writer, under_way: None, waiting: VecDeque::new(), is_over: false };
        Self { requests, queue: Mutex::new(queue), over: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: too many wait.
    fn is_due(&self, n: u64, due: Instant) -> bool {
        let mut queue = self.queue();
        if queue.under_way.is_none() {
            self.send(&mut queue, n, due);
        } else if queue.waiting.len() < WAITING_MAX {
            queue.waiting.push_back((n, due));
        } else {
            return false;
        }
        true
    }

    fn send(&self, queue: &mut Queue, n: u64, due: Instant) {
        queue.under_way = Some(due);
        if queue.writer.write_all(&(self.requests)(n)).is_err() {
            // Whoever waits for the answer sees the end.
            let _broken_already = queue.writer.shutdown(Shutdown::Both);
        }
    }

    /// No more will be due.
    fn end(&self) {
        let mut queue = self.queue();
        queue.is_over = true;
        if queue.under_way.is_none() {
            self.over.notify_one();
        }
    }

    async fn answers(&self, mut connection: Connection, to: SocketAddr) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        loop {
            let answer = tokio::select! {
                answer = timeout(ANSWER_MAX, connection.answer()) => answer.context("no answer in time").flatten(),
                () = self.over.notified() => return Ok(outcome),
            };
            let broken = answer.is_err();
            let answered = self.queue().under_way;
            if let Some(due) = answered {
                outcome.count(due, answer);
            }
            if broken {
                connection = Connection::open(to).await?;
                self.queue().writer = connection.writer()?;
            }
            let mut queue = self.queue();
            if queue.under_way.take() != answered {
                outcome.failed("sent as the connection broke".to_owned());
            }
            match queue.waiting.pop_front() {
                Some((n, due)) => self.send(&mut queue, n, due),
                None if queue.is_over => return Ok(outcome),
                None => {}
            }
        }
    }
}

async fn gather(mut workers: JoinSet<anyhow::Result<Outcome>>) -> anyhow::Result<Outcome> {
    let mut all = Outcome::default();
    while let Some(worker) = workers.join_next().await {
        all.add(worker.context("a worker panicked")??);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers every request after this long.
    async fn server(pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut bytes = [0; 1024];
                    while stream.read(&mut bytes).await.is_ok_and(|n| n > 0) {
                        tokio::time::sleep(pause).await;
                        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    }
                });
            }
        });
        tasks.detach_all();
        address
    }

    fn requests() -> Requests {
        Arc::new(|_| crate::http::request("GET", "x", "/", ""))
    }

    #[tokio::test]
    async fn an_open_loop_counts_from_when_a_request_was_due() {
        let to = server(Duration::from_millis(20)).await;
        // One connection carries 50 a second at most: at 200 the queue grows, and so do the latencies.
        let outcome = open(to, 1, 200.0, Duration::from_millis(200), &requests()).await.unwrap();
        assert_eq!((outcome.latency.len(), outcome.errors), (40, 0));
        assert!(outcome.latency.worst().unwrap() > 300.0, "{:?}", outcome.latency.worst());
    }

    #[tokio::test]
    async fn a_closed_loop_waits_for_each_answer() {
        let to = server(Duration::from_millis(20)).await;
        let outcome = closed(to, 4, Duration::from_millis(200), &requests()).await.unwrap();
        assert!((4..=48).contains(&outcome.latency.len()), "{}", outcome.latency.len());
        assert!(outcome.latency.median().unwrap() >= 20.0);
    }
}
