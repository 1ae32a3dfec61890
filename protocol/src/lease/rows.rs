//! What the statements on the rows of drones and backends decide. In the product these rules are
//! `where` clauses, because a row may change between a read and a write. Here they are functions for
//! `tests/model`; `controller/src/db/rule_tests.rs` puts one table of cases to both.

use super::{Evidence, Holding, Seat, released};
use crate::ids::Term;

/// A heartbeat is written: it is of the row's term, and newer than the last one.
pub fn is_renewed(row: Seat, beat: Seat) -> bool {
    row.term == beat.term && row.renewal < beat.renewal
}

/// The end of a lease is written: the drone's seat and the timeline are those that were watched.
pub fn is_over(row: (Seat, u32), watched: (Seat, u32)) -> bool {
    row == watched
}

/// What a drone's row says of its earlier terms; `Term(0)`: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Below {
    /// The term that the last end of its lease began.
    pub lease_over: Term,
    /// The term that its last new boot, or an operator's word, began.
    pub dead: Term,
}

impl Below {
    /// The reconciler of terms that are over ends the row.
    pub fn frees(self, row: &Holding) -> bool {
        released(row, Evidence::NewBoot { term: self.dead })
            || released(row, Evidence::LeaseOver { term: self.lease_over })
    }
}

/// The row after it was claimed for dispatch, whose `PUT` is then sent once more. `None`: it is not
/// claimed, because its drone has it, because the reconciler of terms ends it, or because the
/// drone's lease is over: nothing would ever free a row that was moved to that term.
pub fn sent_again(row: &Holding, below: Below) -> Option<Holding> {
    let may = !row.acknowledged && below.lease_over < row.drone_term && !below.frees(row);
    may.then(|| Holding { row_term: row.drone_term, puts_sent: row.puts_sent + 1, ..*row })
}

/// A drone's final refusal ends the row: it answered the only `PUT`, and its sender is still the
/// only one.
pub fn is_refused(row: &Holding, is_only_sender: bool) -> bool {
    is_only_sender && released(row, Evidence::Refused)
}
