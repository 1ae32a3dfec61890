//! The lease model as it should be, in several small sizes, and with one mistake at a time.

use std::time::Duration;

use super::{Lease, Mistake, of};
use crate::explore::{exhaust, must_fail};

#[test]
fn a_lease_outlasts_what_may_go_wrong() {
    exhaust("lease", "a controller, 2 sends", Lease::usual(Mistake::None));
}

#[test]
fn a_lease_outlasts_two_controllers() {
    let model = Lease { controllers: 2, sends: 1, cut_off: 1, ..Lease::usual(Mistake::None) };
    exhaust("lease", "2 controllers, a send", model);
}

#[test]
fn a_lease_outlasts_agents_that_restart_and_messages_that_come_twice() {
    let model = Lease { crashes: 1, copies: 1, cut_off: 1, ..Lease::usual(Mistake::None) };
    exhaust("lease", "a restart, a second copy", model);
}

#[test]
fn a_lease_outlasts_a_postgres_that_loses_its_last_commits() {
    let model = Lease { losses: 2, ..Lease::usual(Mistake::None) };
    exhaust("lease", "2 lost commits", model);
}

#[test]
fn a_key_may_come_back_to_its_drone() {
    let model = Lease { again: true, cut_off: 5, sends: 1, ..Lease::usual(Mistake::None) };
    exhaust("lease", "a session that is placed again", model);
}

#[test]
fn a_lease_may_be_made_shorter() {
    let model = Lease { terms: of(60, 10), ..Lease::usual(Mistake::None) };
    exhaust("lease", "a shorter one from the next registration on", model);
}

fn finds(mistake: Mistake, name: &str, change: impl FnOnce(Lease) -> Lease) {
    must_fail("lease", name, "one process", change(Lease::usual(mistake)));
}

#[test]
fn no_margin_is_found() {
    finds(Mistake::NoMargin, "no margin", |model| model);
}

#[test]
fn a_renewal_counted_from_its_arrival_is_found() {
    finds(Mistake::CountedFromArrival, "a renewal counted from its arrival", |model| model);
}

#[test]
fn a_number_sent_twice_is_found() {
    finds(Mistake::SameNumberAgain, "a retry under the same number", |model| model);
}

#[test]
fn an_end_whatever_the_number_is_found() {
    finds(Mistake::EndsWhateverTheNumber, "a lease ended whatever its number is by then", |model| Lease {
        cut_off: 5,
        sends: 1,
        again: true,
        ..model
    });
}

#[test]
fn a_clock_read_before_the_answer_is_found() {
    finds(Mistake::LookedAtBeforeTheAnswer, "a clock read before Postgres answered", |model| Lease {
        gap_max: Duration::from_secs(100),
        ..model
    });
}

#[test]
fn an_unnoticed_timeline_is_found() {
    finds(Mistake::TimelineUnnoticed, "a change of timeline unnoticed", |model| Lease { losses: 2, ..model });
}

#[test]
fn terms_shortened_before_the_drone_knows_are_found() {
    let shorter = |model| Lease { terms: of(60, 10), ..model };
    finds(Mistake::ShortenedAtRegistration, "a row's terms shortened at registration", shorter);
}

#[test]
fn an_init_without_deadline_is_found() {
    finds(Mistake::UnlimitedByInit, "no last word of init", |model| model);
}
