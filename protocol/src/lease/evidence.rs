//! Which words count, and what frees a key: only what proves that a process does not run and never will.

use std::cmp::Ordering;

use crate::ids::{FencingToken, Term};
use crate::spec::OnIsolation;

/// What a drone does with a command, or a controller with a report, of some term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Heed {
    Yes,
    /// Of a term that is over, for ever: a final refusal.
    Over,
    /// Of a term that the other side has not heard of yet: no refusal, for it may count in a moment. `unavailable`.
    NotYet,
}

/// `own`: the term that the drone was last given, or that its row has. Terms only rise.
pub fn heed(own: Option<Term>, word: Term) -> Heed {
    match own {
        Some(own) if word == own => Heed::Yes,
        Some(own) if word < own => Heed::Over,
        Some(_) | None => Heed::NotYet,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Absence {
    /// Its `PUT` may be on its way.
    Nothing,
    /// The drone may be told to delete it; only its "gone", with a tombstone, proves anything.
    AskToDelete,
}

/// What it means that a live row is not in its drone's inventory: `row_term` is the row's, `inventory` the inventory's.
pub fn absence(row_term: Term, acknowledged: bool, inventory: Term) -> Absence {
    if acknowledged && row_term < inventory { Absence::AskToDelete } else { Absence::Nothing }
}

/// A live row that may hold a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// The term in the row: when it was placed, or when it was last claimed for dispatch.
    pub row_term: Term,
    /// The drone's present term.
    pub drone_term: Term,
    pub on_isolation: OnIsolation,
    /// Somebody has heard of it from its drone.
    pub acknowledged: bool,
    /// `PUT`s that were ever sent for it, this one included, but for those that were put off.
    pub puts_sent: u32,
    /// `PUT`s that the drone itself answered with `unavailable`. It refused nothing, so a second copy may be taken later.
    pub put_off: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The drone, in this term, said that it does not run and never will: the engine's "not running" or "absent", and a
    /// tombstone. A drain, too, ends each backend by this.
    DroneSaysGone { term: Term },
    /// The drone was registered from a new boot, as [`super::registration`] understands it, and got this term.
    NewBoot { term: Term },
    /// The lease was watched to its end, and the statement that ended it gave the drone this term.
    LeaseOver { term: Term },
    /// An operator said `confirmed_dead`, and the drone got this term.
    Forgotten { term: Term },
    /// The drone answered this row's `PUT` with a final refusal, which left a tombstone: so no copy of one that was put off
    /// before is taken, either.
    Refused,
    /// The connection for this row's `PUT` was never made.
    NeverSent,
    /// A call to the drone, or of the drone to its engine, failed or timed out.
    CallFailed,
    /// It is not in an inventory.
    Absent,
    /// The drone has not been heard of for long, by anybody's wall clock.
    Silent,
}

/// Whether a row may be ended, and its key given away. No evidence is not evidence of an end.
pub fn released(row: &Holding, evidence: Evidence) -> bool {
    match evidence {
        Evidence::DroneSaysGone { term } => heed(Some(row.drone_term), term) == Heed::Yes,
        Evidence::NewBoot { term } | Evidence::Forgotten { term } => row.row_term < term,
        Evidence::LeaseOver { term } => row.row_term < term && row.on_isolation == OnIsolation::Stop,
        Evidence::Refused => !row.acknowledged && row.puts_sent == 1,
        Evidence::NeverSent => !row.acknowledged && row.puts_sent == 1 && row.put_off == 0,
        Evidence::CallFailed | Evidence::Absent | Evidence::Silent => false,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PutBack {
    /// The key is free: the row is made again.
    Insert,
    /// The key's row is of an older backend, which must have been dead when this one was placed: it is ended instead.
    Supersede,
    /// The key's row is this backend's own: another comparison has put it back meanwhile.
    Own,
    /// The key is a newer backend's: this one is deleted at its drone.
    Delete,
}

/// What becomes of a keyed backend that lives on a drone, asked in its present term, and that a
/// comparison did not find in Postgres. `holder`: the fencing token of the live row with its key,
/// read after that.
pub fn put_back(found: FencingToken, holder: Option<FencingToken>) -> PutBack {
    match holder.map(|holder| holder.cmp(&found)) {
        None => PutBack::Insert,
        Some(Ordering::Less) => PutBack::Supersede,
        Some(Ordering::Equal) => PutBack::Own,
        Some(Ordering::Greater) => PutBack::Delete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_present_term_counts() {
        for (own, word, expect) in [
            (Some(2), 2, Heed::Yes),
            (Some(2), 1, Heed::Over),
            (Some(2), 3, Heed::NotYet),
            (None, 1, Heed::NotYet),
        ] {
            assert_eq!(heed(own.map(Term), Term(word)), expect, "{own:?} {word}");
        }
    }

    #[test]
    fn absence_proves_nothing_about_a_row_of_its_term_or_later() {
        for (row, acknowledged, inventory, expect) in [
            (1, true, 2, Absence::AskToDelete),
            (1, false, 2, Absence::Nothing),
            (2, true, 2, Absence::Nothing),
            (3, true, 2, Absence::Nothing),
        ] {
            assert_eq!(absence(Term(row), acknowledged, Term(inventory)), expect, "{row} {acknowledged}");
        }
    }

    #[test]
    fn what_frees_a_key_and_what_does_not() {
        use Evidence as E;
        let term = Term;
        let stop = Holding {
            row_term: Term(3),
            drone_term: Term(4),
            on_isolation: OnIsolation::Stop,
            acknowledged: true,
            puts_sent: 1,
            put_off: 0,
        };
        let keep = Holding { on_isolation: OnIsolation::Keep, ..stop };
        let placing = Holding { acknowledged: false, ..stop };
        let repeated = Holding { puts_sent: 2, ..placing };
        let put_off = Holding { put_off: 3, ..placing };
        for (row, evidence, expect) in [
            (stop, E::DroneSaysGone { term: term(4) }, true),
            (keep, E::DroneSaysGone { term: term(4) }, true),
            (stop, E::DroneSaysGone { term: term(3) }, false),
            (stop, E::NewBoot { term: term(4) }, true),
            (keep, E::NewBoot { term: term(4) }, true),
            (stop, E::NewBoot { term: term(3) }, false),
            (keep, E::Forgotten { term: term(4) }, true),
            (stop, E::LeaseOver { term: term(4) }, true),
            (stop, E::LeaseOver { term: term(3) }, false),
            (keep, E::LeaseOver { term: term(4) }, false),
            (placing, E::Refused, true),
            (placing, E::NeverSent, true),
            (repeated, E::Refused, false),
            (put_off, E::Refused, true),
            (put_off, E::NeverSent, false),
            (stop, E::Refused, false),
            (stop, E::CallFailed, false),
            (placing, E::CallFailed, false),
            (stop, E::Absent, false),
            (stop, E::Silent, false),
        ] {
            assert_eq!(released(&row, evidence), expect, "{row:?} {evidence:?}");
        }
    }

    #[test]
    fn the_newer_backend_has_the_key() {
        let token = FencingToken;
        assert_eq!(put_back(token(5), None), PutBack::Insert);
        assert_eq!(put_back(token(5), Some(token(4))), PutBack::Supersede);
        assert_eq!(put_back(token(5), Some(token(6))), PutBack::Delete);
        assert_eq!(put_back(token(5), Some(token(5))), PutBack::Own, "tokens are never given twice");
    }
}
