//! The model of a claim as it should be, and with one mistake at a time.

use super::{Claiming, May, Mistake};
use crate::explore::{can_always, exhaust, must_fail};

const NOTHING: May = May { crashes: 0, deaths: 0, cuts: 0, failures: 0 };

#[test]
fn one_process_whenever_the_agent_falls() {
    let model = Claiming::of(Mistake::None, 2, May { crashes: 1, deaths: 1, ..NOTHING });
    exhaust("claim", "2 slots that wait, a fall of the agent, a dying init, a slow engine", model);
}

#[test]
fn one_process_whichever_line_breaks() {
    let model = Claiming::of(Mistake::None, 2, May { deaths: 1, cuts: 1, ..NOTHING });
    exhaust("claim", "2 slots that wait, a dying init, a breaking line, a slow engine", model);
}

#[test]
fn one_process_where_the_engine_makes_slots() {
    let model = Claiming::of(Mistake::None, 1, May { deaths: 1, failures: 1, ..NOTHING });
    exhaust(
        "claim",
        "1 slot that waits, 1 that is made, a dying init, a start that fails or is forgotten",
        model,
    );
}

#[test]
fn an_init_of_an_earlier_version_starts_nothing_twice() {
    let may = May { crashes: 1, deaths: 1, ..NOTHING };
    let model = Claiming { is_old_init: true, ..Claiming::of(Mistake::None, 2, may) };
    exhaust("claim", "a fall of the agent, and an init that says what it took when it runs", model);
}

#[test]
fn a_backend_can_always_be_ended() {
    let model = Claiming::of(Mistake::None, 2, May { deaths: 1, ..NOTHING });
    can_always("claim", "the word of its end", &model, |state| state.ended);
}

fn finds(mistake: Mistake, name: &str) {
    let may = May { crashes: 1, deaths: 1, cuts: 1, failures: 0 };
    must_fail("claim", name, "one process", Claiming::of(mistake, 2, may));
}

fn finds_a_second_start(mistake: Mistake, is_old_init: bool, name: &str) {
    let may = May { deaths: 1, cuts: 1, ..NOTHING };
    let model = Claiming { is_old_init, ..Claiming::of(mistake, 2, may) };
    must_fail("claim", name, "one start", model);
}

#[test]
fn silence_taken_for_a_start_that_never_was_is_found() {
    finds_a_second_start(
        Mistake::SilenceOfAnyInitIsTrusted,
        true,
        "an init that executes first and says so afterwards, and a drone that trusts its silence",
    );
}

#[test]
fn a_reader_dropped_with_unread_messages_is_found() {
    finds_a_second_start(
        Mistake::DroppedReaderIsAnEnd,
        false,
        "a connection given up and taken for read to its end",
    );
}

#[test]
fn an_init_that_begins_unsaid_is_found() {
    finds_a_second_start(Mistake::InitBeginsUnsaid, false, "an init that begins what it could not say");
}

#[test]
fn a_restarted_agent_that_starts_afresh_is_found() {
    finds(Mistake::RestartedAgentStartsAfresh, "a restarted agent that does not ask");
}

#[test]
fn a_journal_written_after_the_claim_is_found() {
    finds(
        Mistake::JournalWrittenAfterTheClaim,
        "a claim that is journalled after it was sent, and init not asked",
    );
}

#[test]
fn a_failed_stop_taken_for_an_end_is_found() {
    finds(Mistake::FailedStopIsAnEnd, "a failed stop taken for an end");
}

#[test]
fn an_init_that_does_not_look_is_found() {
    finds(Mistake::InitDoesNotLook, "an init that takes a late session");
}
