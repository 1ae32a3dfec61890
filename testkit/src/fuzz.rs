//! What `make fuzz` begins with, for the tests that hold each target to its seeds.

use std::path::Path;

/// Panics where the bytes break a promise.
pub type Check = fn(&[u8]);

/// A target of `make fuzz` and its seeds, in the order of their bytes.
pub struct Seeded {
    pub check: Check,
    pub seeds: Vec<Vec<u8>>,
}

/// Of each target by name.
pub fn seeded(targets: &[(&str, Check)]) -> Vec<Seeded> {
    let of = |&(name, check): &(&str, Check)| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds").join(name);
        let files = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
        let mut seeds: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{directory:?} is empty");
        Seeded { check, seeds }
    };
    targets.iter().map(of).collect()
}

/// The seeds as they are, and nothing at all.
pub fn hold(targets: &[Seeded]) {
    for Seeded { check, seeds } in targets {
        check(b"");
        seeds.iter().for_each(|seed| check(seed));
    }
}
