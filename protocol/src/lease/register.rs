//! Whether a host that registers is the drone it says it is, and whether it was booted anew since that was last heard of.
//!
//! A register may be delayed for as long as a controller is stopped, and it says how long its host was up *when it was sent*. Believed
//! on arrival, one of an earlier boot would make a living drone a dead one. So each names the seat that it replaces: where that
//! has moved on, it is refused with the present one, and its sender tries again with a fresh look at its clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Seat;
use crate::ids::BootId;

/// How much two clocks may differ that both count from one boot: also the time that firmware does not take.
const BOOT_SLACK: Duration = Duration::from_secs(10);

/// What a controller hands out with a refusal and the next register brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Replaces {
    pub seat: Seat,
    /// For how long that seat had been silent when it was handed out, by Postgres' clock.
    pub silent_ms: u64,
}

/// The row as Postgres has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Known {
    pub seat: Seat,
    pub boot_id: BootId,
}

/// What a host says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    pub boot_id: BootId,
    /// Since its boot, read after the answer that `replaces` came with.
    pub uptime: Duration,
    pub replaces: Option<Replaces>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The first time ever.
    First,
    /// A new term of the same boot: whatever runs there goes on.
    SameBoot,
    /// A new term of a new boot: everything that was placed in an earlier term is known to be dead.
    NewBoot,
    /// It replaces something else than what is there: a late copy, or it has to look again.
    Moved { present: Option<Seat> },
    /// That host was up already when the drone was last heard of from another boot: its data directory was copied.
    OtherHost,
}

/// The statement that acts on the verdict is conditional on `row`'s seat.
pub fn registration(row: Option<&Known>, claim: &Claim) -> Verdict {
    let present = row.map(|row| row.seat);
    if claim.replaces.map(|replaces| replaces.seat) != present {
        return Verdict::Moved { present };
    }
    let (Some(row), Some(replaces)) = (row, claim.replaces) else { return Verdict::First };
    if row.boot_id == claim.boot_id {
        return Verdict::SameBoot;
    }
    // Its clock was read after the seat was handed out, and the seat has not been renewed since.
    let silent = Duration::from_millis(replaces.silent_ms);
    if claim.uptime <= silent.saturating_add(BOOT_SLACK) { Verdict::NewBoot } else { Verdict::OtherHost }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::Term;

    fn boot(n: u128) -> BootId {
        BootId(Uuid::from_u128(n))
    }

    fn seat(term: i64, renewal: i64) -> Seat {
        Seat { term: Term(term), renewal }
    }

    #[test]
    fn a_register_replaces_what_it_has_seen_and_nothing_else() {
        let row = |boot_id, seat| Some(Known { seat, boot_id });
        let claim = |boot_id, uptime, replaces: Option<(Seat, u64)>| Claim {
            boot_id,
            uptime: Duration::from_secs(uptime),
            replaces: replaces.map(|(seat, silent)| Replaces { seat, silent_ms: silent * 1000 }),
        };
        let moved = |present| Verdict::Moved { present };
        for (name, row, claim, expect) in [
            ("first", None, claim(boot(1), 5, None), Verdict::First),
            ("lost row", None, claim(boot(1), 5, Some((seat(3, 1), 2))), moved(None)),
            ("unseen", row(boot(1), seat(3, 9)), claim(boot(1), 5, None), moved(Some(seat(3, 9)))),
            (
                "same boot",
                row(boot(1), seat(3, 9)),
                claim(boot(1), 5000, Some((seat(3, 9), 2))),
                Verdict::SameBoot,
            ),
            (
                "renewed since",
                row(boot(1), seat(3, 10)),
                claim(boot(2), 5, Some((seat(3, 9), 60))),
                moved(Some(seat(3, 10))),
            ),
            (
                "rebooted",
                row(boot(1), seat(3, 9)),
                claim(boot(2), 30, Some((seat(3, 9), 60))),
                Verdict::NewBoot,
            ),
            (
                "copied",
                row(boot(1), seat(3, 9)),
                claim(boot(2), 5000, Some((seat(3, 9), 2))),
                Verdict::OtherHost,
            ),
            (
                "late, of an earlier boot",
                row(boot(2), seat(4, 0)),
                claim(boot(1), 5, Some((seat(3, 9), 60))),
                moved(Some(seat(4, 0))),
            ),
        ] {
            assert_eq!(registration(row.as_ref(), &claim), expect, "{name}");
        }
    }
}
