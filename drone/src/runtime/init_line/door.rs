//! The listening side of a slot's socket: accepts connections and waits for each one's hello. Which
//! of them is init's is the line's to say.
//!
//! The application reaches the socket too, and may connect in a loop. So few connections wait for
//! their hello at a time, and few are accepted in a second; all others stay in the kernel's queue,
//! where they cost the drone neither a descriptor nor a wake-up.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future::{AbortHandle, Aborted, BoxFuture, abortable};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use jetway_protocol::init::{FromInit, Hello, LINE_BYTES_MAX};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::Connection;

/// Connections that have not said hello. One more, and the oldest goes: init says it at once.
const WAITING_MAX: usize = 4;
const HELLO_DEADLINE: Duration = Duration::from_secs(2);
pub(super) const HELLO_BYTES_MAX: usize = 64 * 1024;
/// Connections accepted in a row, and then one in each interval. An init that loses its line dials
/// some ten times in the first second.
pub(super) const BURST: u32 = 16;
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

pub(super) type Introduced = Box<(Hello, Connection)>;

pub(super) struct Door {
    listener: UnixListener,
    pace: Pace,
    waiting: FuturesUnordered<BoxFuture<'static, Result<Option<Introduced>, Aborted>>>,
    oldest: VecDeque<AbortHandle>,
}

impl Door {
    pub(super) fn new(listener: UnixListener) -> Self {
        let (waiting, oldest) = (FuturesUnordered::new(), VecDeque::new());
        Self { listener, pace: Pace { full_at: Instant::now() }, waiting, oldest }
    }

    /// The next connection that has said hello. Nothing is accepted unless this is polled; dropping
    /// it loses nothing.
    pub(super) async fn next(&mut self) -> Introduced {
        loop {
            // What is done or aborted goes before another one is let in.
            tokio::select! {
                biased;
                Some(outcome) = self.waiting.next() => {
                    if let Ok(Some(introduced)) = outcome {
                        return introduced;
                    }
                }
                accepted = accept(&self.listener, self.pace) => match accepted {
                    Ok(stream) => {
                        self.pace.took_one(Instant::now());
                        self.admit(stream);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a slot's socket cannot accept");
                        self.pace.took_all(Instant::now());
                    }
                },
            }
        }
    }

    fn admit(&mut self, stream: UnixStream) {
        let (introduction, handle) = abortable(introduce(stream));
        self.waiting.push(introduction.boxed());
        self.oldest.push_back(handle);
        while self.oldest.len() > WAITING_MAX {
            if let Some(oldest) = self.oldest.pop_front() {
                oldest.abort();
            }
        }
    }
}

async fn accept(listener: &UnixListener, pace: Pace) -> std::io::Result<UnixStream> {
    sleep_until(pace.next()).await;
    listener.accept().await.map(|(stream, _)| stream)
}

/// How often connections are accepted: a bucket that holds a burst, and is filled by one in each
/// interval.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// When the bucket is full again.
    full_at: Instant,
}

impl Pace {
    /// When there is one to take.
    fn next(self) -> Instant {
        self.full_at.checked_sub(INTERVAL * (BURST - 1)).unwrap_or(self.full_at)
    }

    fn took_one(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + INTERVAL;
    }

    fn took_all(&mut self, now: Instant) {
        self.full_at = now + INTERVAL * BURST;
    }
}

/// `None`: it did not say hello in time.
async fn introduce(stream: UnixStream) -> Option<Introduced> {
    let (reader, writer) = stream.into_split();
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(HELLO_BYTES_MAX));
    let first = timeout(HELLO_DEADLINE, lines.next()).await.ok()??.ok()?;
    let Ok(FromInit::Hello(hello)) = serde_json::from_str(&first) else { return None };
    let lines = lines.map_decoder(|_| LinesCodec::new_with_max_length(LINE_BYTES_MAX));
    Some(Box::new((hello, Connection { lines, writer: Some(writer) })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_taken_at_once_and_then_one_in_each_interval() {
        let mut pace = Pace { full_at: Instant::now() };
        let mut taken = Vec::new();
        let began = Instant::now();
        for _ in 0..BURST + 3 {
            sleep_until(pace.next()).await;
            taken.push(began.elapsed());
            pace.took_one(Instant::now());
        }
        let (burst, rest) = taken.split_at(BURST as usize);
        assert!(burst.iter().all(|at| at.is_zero()), "{burst:?}");
        assert_eq!(rest, [INTERVAL, INTERVAL * 2, INTERVAL * 3]);
        pace.took_all(Instant::now());
        assert_eq!(pace.next() - Instant::now(), INTERVAL);
    }
}
