//! What no bytes from outside may do to the proxy's pure parts: one function a part, which panics
//! where a promise is broken. `make fuzz` feeds them bytes chosen by the code that they reach, the
//! tests below a few by hand and some at random.
//!
//! What must come out is worked out here, in another way than where it is decided. Nothing of this
//! is in a proxy that serves.

mod attach;
mod cookies;
mod frames;
mod headers;
mod on_host;
mod plain;
mod proxy_header;
mod request;
mod response;
mod target;
mod token;

pub use attach::attach;
pub use frames::frames;
pub use headers::headers;
pub use on_host::on_host;
pub use plain::plain;
pub use proxy_header::proxy_header;
pub use target::target;
pub use token::token;

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use jetway_testkit::fuzz::{self, Check, Seeded};
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const TARGETS: [(&str, Check); 8] = [
        ("proxy_header", proxy_header),
        ("frames", frames),
        ("target", target),
        ("headers", headers),
        ("on_host", on_host),
        ("plain", plain),
        ("token", token),
        ("attach", attach),
    ];

    /// What `make fuzz` begins with.
    static SEEDS: LazyLock<Vec<Seeded>> = LazyLock::new(|| fuzz::seeded(&TARGETS));

    #[test]
    fn nothing_that_make_fuzz_begins_with_breaks_a_promise() {
        fuzz::hold(&SEEDS);
    }

    /// The start of one seed and the end of another, with some bytes changed.
    fn mixed(seeds: &[Vec<u8>], picks: [Index; 4], changes: &[(Index, u8)]) -> Vec<u8> {
        let (one, other) = (picks[0].get(seeds), picks[1].get(seeds));
        let (start, end) = (picks[2].index(one.len() + 1), picks[3].index(other.len() + 1));
        let mut bytes = [&one[..start], &other[end..]].concat();
        if bytes.is_empty() {
            return bytes;
        }
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        bytes
    }

    proptest! {
        #[test]
        fn no_bytes_at_random_break_a_promise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            TARGETS.iter().for_each(|(_, check)| check(&bytes));
        }

        #[test]
        fn no_mixture_of_seeds_breaks_a_promise(
            picks in any::<[Index; 4]>(),
            changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        ) {
            for Seeded { check, seeds } in SEEDS.iter() {
                check(&mixed(seeds, picks, &changes));
            }
        }
    }
}
