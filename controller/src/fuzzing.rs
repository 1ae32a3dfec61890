//! What no body from outside may do to a controller before it asks Postgres: one function a kind of body, which panics where a
//! promise is broken. `make fuzz` feeds them bytes chosen by the code that they reach, the tests below a few by hand and some at
//! random.
//!
//! Nothing of this is in a controller that serves.

mod bodies;
mod messages;

pub use bodies::{connect, pool};
pub use messages::messages;

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use jetway_testkit::fuzz::{self, Check, Seeded};
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const TARGETS: [(&str, Check); 3] = [("connect", connect), ("pool", pool), ("messages", messages)];

    /// What `make fuzz` begins with.
    static SEEDS: LazyLock<Vec<Seeded>> = LazyLock::new(|| fuzz::seeded(&TARGETS));

    #[test]
    fn nothing_that_make_fuzz_begins_with_breaks_a_promise() {
        fuzz::hold(&SEEDS);
    }

    /// Bytes of one seed, replaced by bytes of another.
    fn mixed(seeds: &[Vec<u8>], picks: [Index; 5], byte: u8) -> Vec<u8> {
        let (one, other) = (picks[0].get(seeds), picks[1].get(seeds));
        let (start, from) = (picks[2].index(one.len() + 1), picks[3].index(other.len() + 1));
        let length = picks[4].index(8);
        let put = &other[from..(from + length).min(other.len())];
        let rest = &one[(start + put.len()).min(one.len())..];
        let mut bytes = [&one[..start], put, rest].concat();
        if let Some(last) = bytes.get_mut(start + length) {
            *last = byte;
        }
        bytes
    }

    proptest! {
        #[test]
        fn no_bytes_at_random_break_a_promise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            TARGETS.iter().for_each(|(_, check)| check(&bytes));
        }

        #[test]
        fn no_mixture_of_seeds_breaks_a_promise(picks in any::<[Index; 5]>(), byte in 32_u8..127) {
            for Seeded { check, seeds } in SEEDS.iter() {
                check(&mixed(seeds, picks, byte));
            }
        }
    }
}
