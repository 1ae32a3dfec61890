//! A container that waits for its session, and what its init has said meanwhile. Nobody reads its line while it waits:
//! whoever wants the slot looks first, and then knows.

use std::net::Ipv4Addr;

use jetway_protocol::ids::SlotId;
use jetway_protocol::init::{FromInit, Hello};
use jetway_protocol::warm::{Kind, SlotTier};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{Duration, Instant};

use crate::books::admission::Reservation;
use crate::runtime::{Image, InitLine, LineEvent};

/// Init redials within 250 ms; one that was away for longer than this is not waited for.
const AWAY_MAX: Duration = Duration::from_secs(2);

pub struct ReadySlot {
    pub slot: SlotId,
    pub address: Ipv4Addr,
    pub kind: Kind,
    /// As the target names it: what its tag means may change.
    pub image_name: String,
    pub image: Image,
    pub line: InitLine,
    /// `None` while init is not on the line.
    pub hello: Option<Hello>,
    pub since: Instant,
    /// A hot one's: it runs its application already.
    pub reservation: Option<Reservation>,
    away_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Ready,
    /// Its init is away, and may come back.
    Away,
    /// It will never serve anybody.
    Dead,
}

/// What a maker knows of a slot that it has made.
pub struct Parts {
    pub slot: SlotId,
    pub address: Ipv4Addr,
    pub kind: Kind,
    pub image_name: String,
    pub image: Image,
    pub line: InitLine,
    pub hello: Hello,
    pub reservation: Option<Reservation>,
}

impl ReadySlot {
    pub fn new(parts: Parts, now: Instant) -> Self {
        let Parts { slot, address, kind, image_name, image, line, hello, reservation } = parts;
        let (hello, since, away_since) = (Some(hello), now, None);
        Self { slot, address, kind, image_name, image, line, hello, since, reservation, away_since }
    }

    /// Reads what init has said since the last look.
    pub fn look(&mut self, now: Instant) -> Standing {
        loop {
            match self.line.events.try_recv() {
                Ok(LineEvent::Connected(hello)) => {
                    let is_whole = hello.session.is_none() && (!self.is_hot() || hello.ahead.is_some());
                    if !is_whole {
                        return Standing::Dead;
                    }
                    (self.hello, self.away_since) = (Some(hello), None);
                }
                Ok(LineEvent::Disconnected { .. }) => {
                    self.hello = None;
                    self.away_since.get_or_insert(now);
                }
                Ok(LineEvent::Message(FromInit::AheadFailed { .. })) | Err(TryRecvError::Disconnected) => {
                    return Standing::Dead;
                }
                Ok(LineEvent::Message(_)) => {}
                Err(TryRecvError::Empty) => break,
            }
        }
        match self.away_since {
            _ if self.line.commands.is_closed() => Standing::Dead,
            None => Standing::Ready,
            Some(since) if now - since < AWAY_MAX => Standing::Away,
            Some(_) => Standing::Dead,
        }
    }

    fn is_hot(&self) -> bool {
        self.kind.tier == SlotTier::Hot
    }
}
