//! How many slots of each kind a drone keeps, of what it was told to: as many as its memory allows. Pure.
//!
//! Declared targets come first, and may use half of the drone's memory. Learned ones may use what `--warm-memory-bytes` says,
//! within that half. Where there is not room for all, each kind gets one more in turn.

use std::collections::BTreeMap;

use jetway_protocol::spec::Executable;
use jetway_protocol::warm::{Kind, NotAhead, SlotTier, WarmTarget};

/// What an unused parked container takes: the engine's shim, about 9 MB, init, below 1 MB, and the kernel's share of a container.
pub const PARKED_BYTES: i64 = 16 * 1024 * 1024;

/// One target, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub kind: Kind,
    pub executable: Executable,
    pub slots: u32,
    pub declared: bool,
    pub start_timeout_seconds: u32,
}

/// What slots may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The drone's, for sessions.
    pub memory_bytes: i64,
    /// For targets that nobody has declared.
    pub learned_bytes: i64,
    /// Slots in all.
    pub slots: u32,
}

impl TryFrom<WarmTarget> for Target {
    type Error = NotAhead;

    fn try_from(target: WarmTarget) -> Result<Self, NotAhead> {
        let WarmTarget { tier, executable, slots, declared, start_timeout_seconds } = target;
        let kind = Kind::of(tier, &executable)?;
        Ok(Self { kind, executable, slots, declared, start_timeout_seconds })
    }
}

impl Target {
    fn bytes(&self) -> i64 {
        match self.kind.tier {
            SlotTier::Parked => PARKED_BYTES,
            SlotTier::Hot => self.executable.memory_reserve_bytes.max(PARKED_BYTES),
        }
    }
}

/// Targets of one kind become one: the larger number, and declared if any of them is.
pub fn merged(targets: Vec<Target>) -> Vec<Target> {
    let mut merged: Vec<Target> = Vec::new();
    for target in targets {
        match merged.iter_mut().find(|known| known.kind == target.kind) {
            Some(known) => {
                known.slots = known.slots.max(target.slots);
                known.declared |= target.declared;
            }
            None => merged.push(target),
        }
    }
    merged
}

/// How many slots of each kind there are to be.
pub fn allot(targets: &[Target], budget: Budget) -> BTreeMap<Kind, u32> {
    let mut allotted = BTreeMap::new();
    let mut slots = budget.slots;
    let half = budget.memory_bytes / 2;
    let declared: Vec<&Target> = targets.iter().filter(|target| target.declared).collect();
    let used = in_turn(&declared, half, &mut slots, &mut allotted);
    let learned: Vec<&Target> = targets.iter().filter(|target| !target.declared).collect();
    in_turn(&learned, budget.learned_bytes.min(half - used), &mut slots, &mut allotted);
    allotted
}

/// One more for each in turn, until all have what they ask for or nothing more fits. Tells the bytes.
fn in_turn(targets: &[&Target], bytes: i64, slots: &mut u32, allotted: &mut BTreeMap<Kind, u32>) -> i64 {
    let mut free = bytes;
    let mut grows = true;
    while grows {
        grows = false;
        for target in targets {
            let has = allotted.entry(target.kind.clone()).or_insert(0);
            if *has < target.slots && target.bytes() <= free && *slots > 0 {
                (*has, *slots, grows) = (*has + 1, *slots - 1, true);
                free -= target.bytes();
            }
        }
    }
    bytes - free
}

#[cfg(test)]
mod tests {
    use jetway_protocol::spec::Hot;

    use super::*;

    fn target(tier: SlotTier, image: &str, slots: u32, declared: bool) -> Target {
        let mut executable = Executable::of_image(image);
        executable.hot = Some(Hot { claim_path: None, claim_timeout_seconds: 5 });
        executable.memory_reserve_bytes = 4 * PARKED_BYTES;
        let target = WarmTarget { tier, executable, slots, declared, start_timeout_seconds: 60 };
        target.try_into().unwrap()
    }

    fn check(targets: &[Target], memory: i64, learned: i64, expect: &[u32]) {
        let budget =
            Budget { memory_bytes: memory * PARKED_BYTES, learned_bytes: learned * PARKED_BYTES, slots: 100 };
        let allotted = allot(targets, budget);
        let slots: Vec<u32> = targets.iter().map(|target| allotted[&target.kind]).collect();
        assert_eq!(slots, expect, "{memory} {learned}");
    }

    #[test]
    fn declared_before_learned_and_never_more_than_half() {
        use SlotTier::{Hot, Parked};
        let targets = [target(Parked, "learned", 10, false), target(Parked, "declared", 10, true)];
        check(&targets, 100, 20, &[10, 10]);
        check(&targets, 100, 3, &[3, 10]);
        check(&targets, 24, 20, &[2, 10]);
        check(&targets, 12, 20, &[0, 6]);
        let hot = [target(Hot, "hot", 3, true), target(Parked, "parked", 10, true)];
        check(&hot, 100, 0, &[3, 10]);
        check(&hot, 26, 0, &[2, 5]);
        check(&hot, 4, 0, &[0, 2]);
    }

    #[test]
    fn what_there_is_goes_round() {
        let kinds: Vec<Target> =
            ["a", "b", "c"].map(|image| target(SlotTier::Parked, image, 5, false)).to_vec();
        check(&kinds, 100, 7, &[3, 2, 2]);
        let budget = Budget { memory_bytes: i64::MAX, learned_bytes: i64::MAX, slots: 4 };
        assert_eq!(allot(&kinds, budget).into_values().sum::<u32>(), 4);
    }

    #[test]
    fn targets_of_one_kind_are_one() {
        let (few, many) = (target(SlotTier::Parked, "a", 2, true), target(SlotTier::Parked, "a", 5, false));
        let merged = merged(vec![few.clone(), many]);
        assert_eq!(merged, [Target { slots: 5, ..few }]);
    }
}
