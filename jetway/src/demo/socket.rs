//! One visitor's WebSocket: what is read goes to the room, what the room says is written, within limits.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use jetway_service::lifecycle::Lifecycle;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::room::{Full, Room, Said};

/// A write that waits longer has nobody at its other end.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// For a visitor's own close, after ours (RFC 6455 §7.1.1); well within the time that the end has.
const FAREWELL: Duration = Duration::from_millis(200);
const PING_EVERY: Duration = Duration::from_secs(20);
/// Silence, pongs included, after which a visitor is gone.
const SILENCE_MAX: Duration = Duration::from_secs(50);
/// Messages a visitor may send at once, and for how many more a second. The page sends 60 at most.
const MESSAGES_BURST: f64 = 240.0;
const MESSAGES_PER_SECOND: f64 = 120.0;

/// The page comes back by itself after 1013, and never after a code of 4000 and more.
const CLOSE_BEHIND: (u16, &str) = (1013, "too slow to follow");
const CLOSE_ENDED: (u16, &str) = (4001, "this session has ended");
const CLOSE_TOO_MUCH: (u16, &str) = (4008, "too many messages");
const CLOSE_UNREADABLE: (u16, &str) = (4400, "a message that cannot be read");
const CLOSE_FULL: (u16, &str) = (4429, "the room is full");

/// The session's room, shared by its sockets.
#[derive(Clone)]
pub struct Rooms {
    room: Arc<Mutex<Room>>,
    lifecycle: Lifecycle,
}

impl Rooms {
    pub fn new(lifecycle: Lifecycle) -> Self {
        Self { room: Arc::default(), lifecycle }
    }

    /// As a task that the end waits for, so that a visitor is told of it.
    pub async fn visit(self, socket: WebSocket, verified: Option<String>) {
        let lifecycle = self.lifecycle.clone();
        let _a_panic_is_its_own = lifecycle.spawn(self.receive(socket, verified)).await;
    }

    async fn receive(self, mut socket: WebSocket, verified: Option<String>) {
        let entered = self.lock().enter(verified);
        let (visitor, heard) = match entered {
            Ok(entered) => entered,
            Err(Full) => return close(&mut socket, CLOSE_FULL).await,
        };
        let reason = self.follow(&mut socket, visitor, heard).await;
        self.lock().leave(visitor);
        if let Some(reason) = reason {
            close(&mut socket, reason).await;
        }
    }

    /// `None`: the other side is gone already.
    async fn follow(
        &self,
        socket: &mut WebSocket,
        visitor: u32,
        mut heard: tokio::sync::mpsc::Receiver<Utf8Bytes>,
    ) -> Option<(u16, &'static str)> {
        let mut allowance = Allowance::new(Instant::now());
        let mut ping = tokio::time::interval(PING_EVERY);
        let mut last_word = Instant::now();
        loop {
            tokio::select! {
                () = self.lifecycle.stopping() => return Some(CLOSE_ENDED),
                message = heard.recv() => match message {
                    Some(text) => write(socket, Message::Text(text)).await?,
                    None => return Some(CLOSE_BEHIND),
                },
                message = socket.recv() => {
                    last_word = Instant::now();
                    match message?.ok()? {
                        Message::Text(text) => {
                            if !allowance.take(last_word) {
                                return Some(CLOSE_TOO_MUCH);
                            }
                            let Ok(said) = serde_json::from_str::<Said>(&text) else { return Some(CLOSE_UNREADABLE) };
                            self.lock().say(visitor, said);
                        }
                        Message::Binary(_) => return Some(CLOSE_UNREADABLE),
                        Message::Close(_) => return None,
                        Message::Ping(_) | Message::Pong(_) => {}
                    }
                }
                _ = ping.tick() => {
                    if last_word.elapsed() > SILENCE_MAX {
                        return None;
                    }
                    write(socket, Message::Ping(Default::default())).await?;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        self.room.lock()
    }
}

async fn write(socket: &mut WebSocket, message: Message) -> Option<()> {
    tokio::time::timeout(WRITE_DEADLINE, socket.send(message)).await.ok()?.ok()
}

async fn close(socket: &mut WebSocket, (code, reason): (u16, &'static str)) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    let _told_or_gone = write(socket, Message::Close(Some(frame))).await;
    // A socket that is closed over unread bytes, a pong is enough, is reset, and the frame may be lost with it.
    let until_gone = async { while let Some(Ok(_)) = socket.recv().await {} };
    let _gone_or_slow = tokio::time::timeout(FAREWELL, until_gone).await;
}

/// A token bucket.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { left: MESSAGES_BURST, at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let more = (now - self.at).as_secs_f64() * MESSAGES_PER_SECOND;
        self.left = (self.left + more).min(MESSAGES_BURST);
        self.at = now;
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allowance_is_a_burst_and_then_a_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        assert_eq!((0..1000).filter(|_| allowance.take(start)).count(), 240);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| allowance.take(later)).count(), 120);
        let much_later = start + Duration::from_secs(100);
        assert_eq!((0..1000).filter(|_| allowance.take(much_later)).count(), 240);
    }
}
