//! The slots that are ready, by kind: first in, first out. Pure data: one lock around it is what gives no slot twice.

use std::collections::{BTreeMap, VecDeque};

use jetway_protocol::ids::SlotId;
use jetway_protocol::warm::Kind;
use tokio::time::Instant;

use super::slot::{ReadySlot, Standing};

#[derive(Default)]
pub struct Shelf {
    kinds: BTreeMap<Kind, VecDeque<ReadySlot>>,
}

impl Shelf {
    pub fn put(&mut self, slot: ReadySlot) {
        self.kinds.entry(slot.kind.clone()).or_default().push_back(slot);
    }

    pub fn ready(&self, kind: &Kind) -> u32 {
        self.kinds.get(kind).map_or(0, |slots| u32::try_from(slots.len()).unwrap_or(u32::MAX))
    }

    pub fn kinds(&self) -> Vec<Kind> {
        self.kinds.keys().cloned().collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &ReadySlot> {
        self.kinds.values().flatten()
    }

    /// The oldest that can serve now. Those that never will are added to `dead`.
    pub fn take(&mut self, kind: &Kind, now: Instant, dead: &mut Vec<ReadySlot>) -> Option<ReadySlot> {
        let slots = self.kinds.get_mut(kind)?;
        let mut away = VecDeque::new();
        let mut found = None;
        while let Some(mut slot) = slots.pop_front() {
            match slot.look(now) {
                Standing::Ready => {
                    found = Some(slot);
                    break;
                }
                Standing::Away => away.push_back(slot),
                Standing::Dead => dead.push(slot),
            }
        }
        // They keep their turn.
        away.append(slots);
        *slots = away;
        self.forget_empty();
        found
    }

    /// Every slot that will never serve anybody.
    pub fn take_dead(&mut self, now: Instant) -> Vec<ReadySlot> {
        self.take_all_that(|slot| slot.look(now) == Standing::Dead)
    }

    pub fn take_all_that(&mut self, mut is_taken: impl FnMut(&mut ReadySlot) -> bool) -> Vec<ReadySlot> {
        let (mut taken, mut kept) = (Vec::new(), Vec::new());
        for slots in self.kinds.values_mut() {
            for mut slot in std::mem::take(slots) {
                let to = if is_taken(&mut slot) { &mut taken } else { &mut kept };
                to.push(slot);
            }
            slots.extend(kept.drain(..));
        }
        self.forget_empty();
        taken
    }

    /// The oldest, whatever it is like.
    pub fn pop(&mut self, kind: &Kind) -> Option<ReadySlot> {
        let slot = self.kinds.get_mut(kind)?.pop_front();
        self.forget_empty();
        slot
    }

    pub fn remove(&mut self, slot: SlotId) -> Option<ReadySlot> {
        self.take_all_that(|one| one.slot == slot).pop()
    }

    /// A slot with room set aside for it, if possible not of the kind that is spared.
    pub fn pop_set_aside(&mut self, spared: Option<&Kind>) -> Option<ReadySlot> {
        let holds = |slot: &&ReadySlot| slot.reservation.is_some();
        let other = self.iter().filter(holds).find(|slot| Some(&slot.kind) != spared);
        let slot = other.or_else(|| self.iter().find(holds))?.slot;
        self.remove(slot)
    }

    /// It is the next of its kind.
    pub fn put_first(&mut self, slot: ReadySlot) {
        self.kinds.entry(slot.kind.clone()).or_default().push_front(slot);
    }

    fn forget_empty(&mut self) {
        self.kinds.retain(|_, slots| !slots.is_empty());
    }
}
