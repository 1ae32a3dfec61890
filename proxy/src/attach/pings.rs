//! The pings of a stream: a pong shows that the drone was there when its ping was sent.

use std::collections::VecDeque;
use std::time::Duration;

use jetway_protocol::attach::DEADLINE_SECONDS;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

/// Pings that have no pong yet, and when they were sent.
#[derive(Default)]
pub struct Pings {
    sent: VecDeque<(u64, Instant)>,
    next: u64,
}

impl Pings {
    /// Noted before it is sent.
    pub fn next(&mut self, now: Instant) -> Message {
        self.next += 1;
        self.sent.push_back((self.next, now));
        // Pings whose pong would come too late are forgotten.
        self.sent.retain(|(_, at)| now.duration_since(*at) < Duration::from_secs(DEADLINE_SECONDS));
        Message::Ping(self.next.to_be_bytes().to_vec().into())
    }

    /// When the ping was sent that this answers.
    pub fn answered(&mut self, pong: &[u8]) -> Option<Instant> {
        let number = u64::from_be_bytes(pong.try_into().ok()?);
        let (_, sent_at) = *self.sent.iter().find(|(sent, _)| *sent == number)?;
        self.sent.retain(|(sent, _)| *sent > number);
        Some(sent_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pong_is_worth_the_sending_of_its_ping() {
        let (mut pings, start) = (Pings::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let sent: Vec<Message> = [0, 2, 4, 7].map(|seconds| pings.next(at(seconds))).into();
        let mut pong = |n: usize| pings.answered(&sent[n].clone().into_data());
        assert_eq!(pong(0), None, "forgotten: it is of no use any more");
        assert_eq!(pong(2), Some(at(4)));
        assert_eq!(pong(1), None, "overtaken");
        assert_eq!(pong(3), Some(at(7)));
        assert_eq!(pings.answered(b"nonsense"), None);
        assert_eq!(pings.answered(b"longer nonsense"), None);
    }
}
