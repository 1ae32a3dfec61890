//! What the dispatch model is checked for: every order of events, and each mistake that the checker must find.

use super::{Dispatch, Mistake};
use crate::explore::{can_always, exhaust, must_fail};

#[test]
fn one_process_with_messages_in_any_order_and_twice() {
    let model = Dispatch { copies: 1, ..Dispatch::usual(Mistake::None) };
    exhaust("dispatch", "2 drones, 2 attempts, 3 messages at a time, a second copy", model);
}

#[test]
fn one_process_with_agents_that_restart() {
    let model = Dispatch { restarts: 1, network: 2, ..Dispatch::usual(Mistake::None) };
    exhaust("dispatch", "a restart", model);
}

#[test]
fn one_process_with_drones_that_are_cut_off() {
    let model = Dispatch { lapses: 1, network: 2, ..Dispatch::usual(Mistake::None) };
    exhaust("dispatch", "a lease that is over", model);
}

#[test]
fn one_process_with_hosts_that_are_booted_anew() {
    let model = Dispatch { reboots: 1, network: 2, ..Dispatch::usual(Mistake::None) };
    exhaust("dispatch", "a new boot", model);
}

#[test]
fn one_process_with_drones_that_put_off_and_decline() {
    let model =
        Dispatch { copies: 1, put_offs: 2, restarts: 1, network: 1, ..Dispatch::usual(Mistake::None) };
    exhaust("dispatch", "a restart, a PUT put off and declined, a second copy", model);
}

#[test]
fn one_process_with_a_lapsed_drone_that_puts_off_and_declines() {
    let model = Dispatch { copies: 1, put_offs: 2, lapses: 1, network: 1, ..Dispatch::usual(Mistake::None) };
    exhaust("dispatch", "a lapse, a PUT put off and declined, a second copy", model);
}

#[test]
fn one_process_with_several_of_these() {
    let both = Dispatch { restarts: 1, lapses: 1, network: 1, ..Dispatch::usual(Mistake::None) };
    exhaust("dispatch", "a restart and a lease that is over, a message at a time", both);
}

/// Whatever was lost, restarted, cut off or booted anew: the key can become free, with nothing left running.
#[test]
fn a_key_can_always_become_free() {
    let usual = || Dispatch { network: 1, ..Dispatch::usual(Mistake::None) };
    for (what, model) in [
        ("a free key after a restart", Dispatch { restarts: 1, ..usual() }),
        ("a free key after a lease that is over", Dispatch { lapses: 1, ..usual() }),
        ("a free key after a new boot", Dispatch { reboots: 1, ..usual() }),
    ] {
        can_always("dispatch", what, &model, |state| state.live().is_none() && state.processes() == 0);
    }
}

fn finds(mistake: Mistake, name: &str, change: impl FnOnce(Dispatch) -> Dispatch) {
    must_fail("dispatch", name, "one process", change(Dispatch::usual(mistake)));
}

#[test]
fn a_retarget_after_a_timeout_is_found() {
    finds(Mistake::RetargetAfterTimeout, "retarget after a timeout", |model| model);
}

#[test]
fn absence_taken_for_death_is_found() {
    finds(Mistake::AbsenceIsDeath, "absence from an inventory taken for death", |model| model);
}

#[test]
fn no_tombstones_is_found() {
    finds(Mistake::NoTombstones, "no tombstones", |model| model);
}

#[test]
fn a_refusal_without_tombstone_is_found() {
    finds(Mistake::NoTombstoneAtRefusal, "a refusal that leaves no tombstone", |model| Dispatch {
        copies: 1,
        ..model
    });
}

#[test]
fn an_unknown_term_taken_for_a_final_refusal_is_found() {
    finds(
        Mistake::UnknownTermIsFinal,
        "a term that the drone does not know yet, refused for good",
        |model| Dispatch { copies: 1, restarts: 1, ..model },
    );
}

#[test]
fn a_final_refusal_of_what_runs_is_found() {
    let model = |model| Dispatch { copies: 1, restarts: 1, ..model };
    finds(Mistake::FinalWhileItRuns, "a final refusal of a PUT whose copy runs", model);
}

#[test]
fn not_now_taken_for_a_refusal_is_found() {
    let model = |model| Dispatch { copies: 1, restarts: 1, put_offs: 1, ..model };
    finds(Mistake::PutOffFreesTheKey, "\"not now\" taken for a refusal", model);
}

#[test]
fn a_drone_that_declines_and_forgets_it_is_found() {
    let model = |model| Dispatch { copies: 1, restarts: 1, put_offs: 2, ..model };
    finds(Mistake::DeclinesAndForgets, "a PUT that was declined, and may be taken", model);
}

#[test]
fn a_refusal_of_one_of_several_puts_is_found() {
    finds(Mistake::RefusalOfAnyPut, "a refusal of one of several PUTs, without tombstone", |model| model);
}

#[test]
fn a_row_that_keeps_its_term_is_found() {
    let model = |model| Dispatch { lapses: 1, ..model };
    finds(Mistake::RowKeepsItsTerm, "a PUT under a later term than its row's", model);
}

#[test]
fn a_lapsed_drone_that_takes_a_key_is_found() {
    finds(Mistake::LapsedDroneAdmits, "a PUT taken without a lease", |model| Dispatch { lapses: 1, ..model });
}

#[test]
fn a_command_of_an_old_term_is_found() {
    finds(Mistake::AnyTermIsHeeded, "commands of any term", |model| Dispatch { lapses: 1, ..model });
}
