//! Clients, as pages are: ask for a key's session, enter it by a WebSocket or by requests, check which session answers, talk, leave in
//! one of several ways, come back. Each notes what it saw; whether that was right is the checker's business.

mod line;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt;
use serde_json::Value;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

use self::line::Protocol;
use crate::places::{CONTROLLERS, PROXIES, Part};
use crate::schedule::Dice;
use crate::seen::{Dropped, SECOND, Wish, now};
use crate::shore::{ECHO, Opened, Page, Shore, Socket};

const STOP: Duration = Duration::from_secs(30);
const STOP_BOUND: u64 = 10 * SECOND;

/// How a client uses its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    WebSocket,
    /// Requests, one after the other on a connection that is kept.
    Http1,
    /// Requests side by side.
    Http2,
    /// A person's: may be shown the waiting page.
    Browser,
}

impl Kind {
    /// More than half of them have a WebSocket.
    fn of(number: u64) -> Self {
        match number % 7 {
            1 => Self::Http1,
            3 => Self::Http2,
            5 => Self::Browser,
            _ => Self::WebSocket,
        }
    }
}

/// How a client's stay ended.
enum Left {
    /// As the client wanted.
    Wanted,
    /// The URL's session is over.
    Gone,
    Failed,
}

pub struct Client {
    number: u64,
    kind: Kind,
    dice: Dice,
    shore: Arc<Shore>,
}

impl Client {
    pub fn new(number: u64, seed: u64, shore: Arc<Shore>) -> Self {
        let kind = Kind::of(number);
        Self { number, kind, dice: Dice::new(seed ^ (number << 32)), shore }
    }

    /// Comes and goes until it is told to stop.
    pub async fn live(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let key = format!("key-{}", self.dice.below(self.shore.keys));
            tokio::select! {
                () = self.visit(&key) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn pause(&mut self, ms: (u64, u64)) {
        tokio::time::sleep(Duration::from_millis(self.dice.between(ms))).await;
    }

    async fn visit(&mut self, key: &str) {
        let controller =
            Part::Controller(1 + u8::try_from(self.dice.below(u64::from(CONTROLLERS))).unwrap_or(0));
        // A person comes while the session starts.
        let (wait, asked) = (self.dice.one_in(2) && self.kind != Kind::Browser, now());
        let Some(page) = self.shore.connect(controller, key, wait).await else {
            return self.pause((200, 1500)).await;
        };
        // A page that lost its connection comes back to the same URL until it is told that this is over.
        for turn in 0..8 {
            let proxy = 1 + u8::try_from(self.dice.below(u64::from(PROXIES))).unwrap_or(0);
            let left = match self.kind {
                Kind::WebSocket => self.by_socket(&page, proxy).await,
                Kind::Http1 => self.by_requests(&page, proxy, Protocol::Http1).await,
                Kind::Http2 => self.by_requests(&page, proxy, Protocol::Http2).await,
                Kind::Browser => self.by_page(&page, proxy).await,
            };
            match left {
                Left::Wanted => break,
                Left::Gone => {
                    if turn == 0 {
                        let what = if page.confirmed {
                            "a fresh URL was over"
                        } else {
                            "an unconfirmed URL was over"
                        };
                        let asked_of = (controller, Some(proxy));
                        self.shore.refused(what, asked_of, !page.confirmed, &page.backend, asked);
                    }
                    break;
                }
                Left::Failed => {}
            }
            self.pause((100, 1000)).await;
        }
        self.pause((100, 2000)).await;
    }

    async fn by_socket(&mut self, page: &Page, proxy: u8) -> Left {
        match self.shore.open(page, proxy).await {
            Opened::Open(socket) => match self.talk(page, proxy, *socket).await {
                true => Left::Wanted,
                false => Left::Failed,
            },
            Opened::Gone => Left::Gone,
            Opened::Failed => Left::Failed,
        }
    }

    /// True where the client left because it wanted to.
    async fn talk(&mut self, page: &Page, proxy: u8, mut socket: Socket) -> bool {
        let opened = now();
        let mut last = None;
        let until = tokio::time::Instant::now() + Duration::from_millis(self.dice.between((300, 9000)));
        let mut count = 0_u64;
        while tokio::time::Instant::now() < until {
            let text = format!("{}-{count}", self.number);
            count += 1;
            match self.shore.echo(page, proxy, &mut socket, &text).await {
                Ok(sent) => last = Some(sent),
                Err(how) => {
                    if let Some(how) = how {
                        let backend = page.backend.clone();
                        let dropped = Dropped { backend, proxy, opened, at: now(), how };
                        self.shore.seen.note().dropped.push(dropped);
                    }
                    self.shore.used(page, proxy, last, None, 0);
                    return false;
                }
            }
            self.pause((50, 600)).await;
        }
        self.shore.used(page, proxy, last, Some(now()), 0);
        match self.dice.below(20) {
            0 | 1 => {
                self.shore.wish(page, Wish::Exit);
                let _sent = socket.send(Message::text("exit")).await;
            }
            2 | 3 => self.stop(page).await,
            // The browser's tab is killed.
            4..=7 => drop(socket),
            _ => {
                let _closed = tokio::time::timeout(ECHO, socket.close(None)).await;
            }
        }
        true
    }

    async fn stop(&mut self, page: &Page) {
        let controller =
            Part::Controller(1 + u8::try_from(self.dice.below(u64::from(CONTROLLERS))).unwrap_or(0));
        let how = if self.dice.one_in(2) { "soft" } else { "hard" };
        self.shore.wish(page, Wish::Stop);
        let path = format!("/ctrl/b/{}/{how}-terminate", page.backend);
        self.shore.post(controller, &path, &Value::Null, (STOP, STOP_BOUND)).await;
    }
}
