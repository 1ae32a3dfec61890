//! The model of warm slots as it should be, and with one mistake at a time.

use super::{Mistake, Warm};
use crate::explore::{can_always, exhaust, must_fail};

#[test]
fn a_slot_is_one_backends_whoever_falls() {
    let model = Warm { mistake: Mistake::None, falls: 2 };
    exhaust("warm", "2 slots, 2 backends, 2 falls of the agent, slots that die", model);
}

#[test]
fn a_claim_can_always_be_settled() {
    let model = Warm { mistake: Mistake::None, falls: 1 };
    can_always("warm", "no session on its way", &model, |state| {
        state.slots.iter().all(|slot| !slot.sent.contains(&true))
    });
}

fn finds(mistake: Mistake, name: &str, property: &'static str) {
    must_fail("warm", name, property, Warm { mistake, falls: 2 });
}

const LOST: &str = "no session is lost to another one or to the reconciler";
const STARTS: &str = "one start for each key";
const ONE: &str = "one process for each key";

#[test]
fn a_slot_that_is_found_and_then_taken_is_found() {
    finds(Mistake::TakenInTwoSteps, "a slot that is looked for and taken in two steps", LOST);
}

#[test]
fn a_reconciler_that_asks_for_owners_first_is_found() {
    finds(Mistake::OwnersAskedFirst, "a reconciler that asks for owners first", LOST);
}

#[test]
fn a_slot_journalled_after_its_session_was_sent_is_found() {
    finds(Mistake::JournalledLate, "a slot that is journalled after its session was sent", ONE);
}

#[test]
fn a_silent_slot_taken_for_dead_is_found() {
    finds(Mistake::SilenceIsDeath, "a silent slot that is taken for dead", ONE);
}

#[test]
fn a_session_executed_before_it_is_mentioned_is_found() {
    finds(Mistake::SaidAfterwards, "an init that executes and says so afterwards", STARTS);
}

#[test]
fn an_adopted_slot_that_is_replaced_is_found() {
    finds(Mistake::AdoptedSlotIsReplaced, "an agent that takes what it has heard for all", STARTS);
}
