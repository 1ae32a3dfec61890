//! What a drone says to a `PUT` that it does not take. Pure: the drone and `tests/model` ask this
//! function.

/// A drone that has found a reason against a `PUT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objection {
    /// The reason will not pass. Otherwise it is `unavailable`.
    pub is_final: bool,
    /// The sender wants a final refusal instead of `unavailable`.
    pub or_never: bool,
    /// The backend is here, by an earlier copy of the `PUT`, or in a container that no journal knows.
    pub lives: bool,
    /// A tombstone for it is here.
    pub is_buried: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// `unavailable`: nothing is refused, and nothing taken.
    PutOff,
    /// A final refusal, after a tombstone was written: a second copy may be on its way.
    BuryAndRefuse,
    /// A final refusal; the tombstone is there.
    Refuse,
}

/// A final refusal may free the key, so it is said of nothing that lives here.
pub fn denial(objection: Objection) -> Denial {
    match objection {
        Objection { is_final: false, or_never: false, .. } | Objection { lives: true, .. } => Denial::PutOff,
        Objection { is_buried: true, .. } => Denial::Refuse,
        Objection { .. } => Denial::BuryAndRefuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_word_has_a_tombstone_and_is_of_nothing_that_lives() {
        use Denial::{BuryAndRefuse, PutOff, Refuse};
        for (is_final, or_never, lives, is_buried, expect) in [
            (false, false, false, false, PutOff),
            (false, false, false, true, PutOff),
            (false, true, false, false, BuryAndRefuse),
            (false, true, true, false, PutOff),
            (true, false, false, false, BuryAndRefuse),
            (true, false, true, false, PutOff),
            (true, true, true, false, PutOff),
            (true, false, false, true, Refuse),
            (false, true, false, true, Refuse),
        ] {
            let objection = Objection { is_final, or_never, lives, is_buried };
            assert_eq!(denial(objection), expect, "{objection:?}");
        }
    }
}
