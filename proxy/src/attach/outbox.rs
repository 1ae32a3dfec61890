//! Notices that wait for the stream, first in, first out, and the way to it for all who have one.
//! Counts of uses are the ledger's business.
//!
//! Only what is for the timeline has a limit of its own here and is left out beyond it. Every other
//! notice is needed for a session to idle, a wait to end or an address to come back, and there are
//! never more of them than there is open: an ask that was not sent yet goes together with its
//! client.

use std::collections::VecDeque;

use jetway_protocol::attach::ToDrone;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// First bytes that wait, at most.
const FIRST_BYTES_MAX: usize = 4096;

/// The notices of a drone, which its stream waits for. They outlive the handle of the drone where a
/// gate still has them.
#[derive(Debug, Default)]
pub struct Notices {
    outbox: Mutex<Outbox>,
    pub(super) wake: Notify,
}

impl Notices {
    /// Puts a notice behind those that wait for the stream.
    pub(super) fn tell(&self, message: ToDrone) {
        self.outbox().put(message);
        self.wake.notify_one();
    }

    pub(super) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock()
    }
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: VecDeque<ToDrone>,
    first_bytes: usize,
}

impl Outbox {
    pub(super) fn put(&mut self, message: ToDrone) {
        match &message {
            ToDrone::FirstByte { .. } if self.first_bytes >= FIRST_BYTES_MAX => return,
            ToDrone::FirstByte { .. } => self.first_bytes += 1,
            ToDrone::Forget { ask, .. } => {
                let follows =
                    |waiting: &ToDrone| matches!(waiting, ToDrone::Follow { ask: asked, .. } if asked == ask);
                if let Some(at) = self.messages.iter().rposition(follows) {
                    self.messages.remove(at);
                }
                let unsent =
                    |waiting: &ToDrone| matches!(waiting, ToDrone::Ask { ask: asked, .. } if asked == ask);
                if let Some(at) = self.messages.iter().rposition(unsent) {
                    self.messages.remove(at);
                    return;
                }
            }
            _ => {}
        }
        self.messages.push_back(message);
    }

    /// Leaves out the notices of the last stream: its asks are made again when the next one
    /// stands.
    pub(super) fn begin_stream(&mut self) {
        let of_an_ask = |message: &ToDrone| {
            matches!(message, ToDrone::Ask { .. } | ToDrone::Follow { .. } | ToDrone::Forget { .. })
        };
        self.messages.retain(|message| !of_an_ask(message));
    }

    pub(super) fn take(&mut self) -> VecDeque<ToDrone> {
        self.first_bytes = 0;
        std::mem::take(&mut self.messages)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::ids::{BackendId, FencingToken, GrantId};
    use jetway_protocol::time::UnixMicros;

    use super::*;

    const FENCING: FencingToken = FencingToken(1);

    fn backend() -> BackendId {
        "b".parse().unwrap()
    }

    fn ask(ask: u64) -> ToDrone {
        ToDrone::Ask { ask, backend: backend(), fencing_token: FENCING, grant: GrantId(1) }
    }

    fn forget(ask: u64) -> ToDrone {
        ToDrone::Forget { ask, backend: Some(backend()) }
    }

    #[test]
    fn only_first_bytes_are_left_out_when_too_much_waits() {
        let seen = ToDrone::EndedSeen { backend: backend(), fencing_token: FENCING };
        let first_byte = ToDrone::FirstByte {
            backend: backend(),
            fencing_token: FENCING,
            start: UnixMicros(0),
            length_us: 1,
        };
        let mut outbox = Outbox::default();
        outbox.put(ask(0));
        outbox.put(seen.clone());
        for _ in 0..3 * FIRST_BYTES_MAX {
            outbox.put(first_byte.clone());
        }
        outbox.put(seen.clone());
        outbox.put(ask(1));
        let taken: Vec<ToDrone> = outbox.take().into();
        assert_eq!(taken.len(), FIRST_BYTES_MAX + 4);
        assert_eq!(taken[..2], [ask(0), seen.clone()]);
        assert_eq!(taken[taken.len() - 2..], [seen, ask(1)]);
        outbox.put(first_byte);
        assert!(!outbox.is_empty(), "room again");
    }

    #[test]
    fn an_ask_that_was_not_sent_goes_with_its_client() {
        let mut outbox = Outbox::default();
        for id in 0..3 {
            outbox.put(ask(id));
        }
        outbox.put(forget(1));
        assert_eq!(outbox.take(), [ask(0), ask(2)]);
        outbox.put(forget(0));
        assert_eq!(outbox.take(), [forget(0)], "it was sent");
        outbox.put(ask(3));
        outbox.put(forget(2));
        outbox.begin_stream();
        assert!(outbox.is_empty());
    }
}
