//! Where the records of a backend's grants go. They begin in the backend's own file. Where they are
//! more than a session usually has, they move to a log beside it, which is written anew when half
//! of it is about grants that are gone: a few with every grant that comes, so that nobody waits for
//! it.
//!
//! A log appears by rename, and whole: where there is one, what the backend's file says of grants
//! is old.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::appending::{Appending, lines, remove_if_there};
use super::record::Record;
use crate::grants::{Grants, Held};

/// Bytes of grants in the backend's own file, at most; and of what is gone in a log, beside as much
/// again as is there.
const SLACK_BYTES: u64 = 1024 * 1024;
/// Grants that are copied with each that comes: a copy is whole long before there are as many new
/// ones.
const COPIED_AT_ONCE: usize = 64;
pub const EXTENSION: &str = "grants";
pub const COPY_EXTENSION: &str = "grants-new";

#[derive(Debug)]
pub struct GrantLog {
    path: PathBuf,
    appending: Appending,
    /// `None`: they go to the backend's own file.
    log: Option<File>,
    /// Bytes of grants' records in the file that counts.
    bytes: u64,
    copy: Option<Copy>,
    /// No copy is begun before there are as many bytes: the last one failed.
    not_before: u64,
}

/// The next log, in the making.
#[derive(Debug)]
struct Copy {
    file: File,
    bytes: u64,
    /// The age of the next grant to be copied.
    next: u64,
}

impl Copy {
    fn append(&mut self, appending: &Appending, records: &[Record]) -> io::Result<()> {
        let lines = lines(records)?;
        appending.append(&self.file, &lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }
}

impl GrantLog {
    /// Of a new backend, or of one whose grants were found in its own file.
    pub fn of(backend: &Path, appending: Appending, bytes: u64) -> Self {
        let path = backend.with_extension(EXTENSION);
        Self { path, appending, log: None, bytes, copy: None, not_before: 0 }
    }

    /// What the log says, where there is one.
    pub fn read(&mut self) -> io::Result<Option<Grants>> {
        let file = match OpenOptions::new().read(true).append(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (mut grants, mut whole, mut line) = (Grants::default(), 0, Vec::new());
        let mut reader = BufReader::new(&file);
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                break;
            }
            if let Some(of_none) = serde_json::from_slice::<Record>(&line)?.apply_to(&mut grants) {
                tracing::warn!(path = %self.path.display(), record = ?of_none, "a record is not of a grant");
            }
            whole += length as u64;
        }
        file.set_len(whole)?;
        (self.log, self.bytes) = (Some(file), whole);
        Ok(Some(grants))
    }

    /// `own`: the backend's own file.
    pub fn append(&mut self, own: &File, records: &[Record]) -> io::Result<()> {
        let written = lines(records)?;
        self.appending.append(self.log.as_ref().unwrap_or(own), &written)?;
        self.bytes += written.len() as u64;
        // New grants are copied when it is their turn; what happens to those that are in the copy
        // is said there, too.
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let of_old_ones = |record: &&Record| !matches!(record, Record::Grant { .. });
        let of_old_ones: Vec<Record> = records.iter().filter(of_old_ones).cloned().collect();
        if let Err(error) = copy.append(&self.appending, &of_old_ones) {
            self.give_up(&error);
        }
        Ok(())
    }

    /// Begins a copy where one is due, and goes on with it. `grants`: all that has been appended.
    /// True: there is more to be done.
    pub fn tidy(&mut self, grants: &Grants) -> bool {
        if let Err(error) = self.go_on(grants) {
            self.give_up(&error);
        }
        self.copy.is_some()
    }

    fn go_on(&mut self, grants: &Grants) -> io::Result<()> {
        let present = if self.log.is_some() { 2 * grants.bytes() as u64 } else { 0 };
        if self.copy.is_none() && self.bytes > (present + SLACK_BYTES).max(self.not_before) {
            let path = self.path.with_extension(COPY_EXTENSION);
            remove_if_there(&path)?;
            let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path)?;
            self.copy = Some(Copy { file, bytes: 0, next: 0 });
        }
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let (mut records, mut copied) = (Vec::new(), 0);
        for (age, held) in grants.since_age(copy.next).take(COPIED_AT_ONCE) {
            records.extend(records_of(held));
            copy.next = age + 1;
            copied += 1;
        }
        copy.append(&self.appending, &records)?;
        if copied == COPIED_AT_ONCE {
            return Ok(());
        }
        std::fs::rename(self.path.with_extension(COPY_EXTENSION), &self.path)?;
        if let Some(copy) = self.copy.take() {
            (self.log, self.bytes) = (Some(copy.file), copy.bytes);
        }
        Ok(())
    }

    /// The file that counts is whole without it.
    fn give_up(&mut self, error: &io::Error) {
        let path = self.path.with_extension(COPY_EXTENSION);
        tracing::warn!(path = %path.display(), %error, "the grants of a backend cannot be written anew");
        self.copy = None;
        self.not_before = 2 * self.bytes;
        let _what_is_left_is_removed_by_the_next_copy = remove_if_there(&path);
    }
}

fn records_of(held: &Held) -> impl Iterator<Item = Record> + use<> {
    let used = held.used.then_some(Record::Used { grant: held.grant.id });
    [Record::Grant { grant: held.grant.clone(), at: held.added }].into_iter().chain(used)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use jetway_protocol::grant::Grant;
    use jetway_protocol::ids::{BackendId, GrantId};
    use jetway_protocol::status::Status;
    use jetway_protocol::time::UnixMicros;

    use super::super::tests::put;
    use super::super::{Journal, Journals};
    use super::*;
    use crate::store::data_dir::tests::TestDir;

    /// A backend's journal, its grants as its task has them, and where it all is.
    struct Crowd {
        dir: TestDir,
        journals: Journals,
        journal: Journal,
        grants: Grants,
    }

    impl Crowd {
        fn new() -> Self {
            let dir = TestDir::new();
            let journals = Journals::open(dir.path()).unwrap();
            let journal = journals.create(&id(), &[put()]).unwrap();
            Self { dir, journals, journal, grants: Grants::default() }
        }

        fn add(&mut self, number: u64) {
            let (user, secret) = (Some(format!("visitor-{number}")), "0123456789abcdef".repeat(4));
            let grant =
                Grant { id: GrantId(number), user, auth: "{}".into(), secret, allowed_origins: Vec::new() };
            let at = UnixMicros(i64::try_from(number).unwrap());
            self.journal.append(&Record::Grant { grant: grant.clone(), at }).unwrap();
            self.grants.add(grant, at);
            self.journal.tidy(&self.grants);
        }

        fn use_(&mut self, number: u64) {
            self.journal.append(&Record::Used { grant: GrantId(number) }).unwrap();
            self.grants.mark_used(GrantId(number));
        }

        fn remove(&mut self, number: u64) {
            self.journal.append(&Record::Revoked { grants: vec![GrantId(number)] }).unwrap();
            self.grants.remove(&[GrantId(number)]);
        }

        /// What the next agent finds is what this one has, in the same order.
        fn is_remembered(&self) {
            let told = |grants: &Grants| -> Vec<_> {
                grants.since_age(0).map(|(_, held)| (held.grant.id.0, held.added, held.used)).collect()
            };
            let (remembered, _) = self.journals.load().unwrap().pop().unwrap();
            assert_eq!(told(&remembered.grants), told(&self.grants));
        }

        fn path(&self, extension: &str) -> PathBuf {
            self.dir.path().join("backends/b1").with_extension(extension)
        }

        fn length(&self, extension: &str) -> u64 {
            std::fs::metadata(self.path(extension)).map_or(0, |file| file.len())
        }
    }

    fn id() -> BackendId {
        "b1".parse().unwrap()
    }

    #[test]
    fn few_grants_stay_in_the_backends_own_file() {
        let mut crowd = Crowd::new();
        (1..=1000).for_each(|number| crowd.add(number));
        crowd.use_(3);
        crowd.is_remembered();
        assert!(!crowd.path(EXTENSION).exists() && !crowd.path(COPY_EXTENSION).exists());
    }

    #[test]
    fn a_long_crowd_s_log_is_as_long_as_what_is_there() {
        let mut crowd = Crowd::new();
        for number in 1..=100_000 {
            crowd.add(number);
            if number % 1000 == 10 {
                crowd.use_(number);
            }
            if number > 5000 && (number - 5000) % 1000 != 10 {
                crowd.remove(number - 5000);
            }
            // Another agent would remove a copy.
            if number % 5003 == 0 && !crowd.path(COPY_EXTENSION).exists() {
                crowd.is_remembered();
            }
        }
        let (own, log) = (crowd.length("ndjson"), crowd.length(EXTENSION));
        assert!(own < 2 * SLACK_BYTES, "{own}");
        let there = crowd.grants.bytes() as u64;
        assert!(log < 2 * there + 2 * SLACK_BYTES, "{log} of {there}");
    }

    #[test]
    fn a_copy_that_was_not_finished_counts_for_nothing() {
        let mut crowd = Crowd::new();
        let mut number = 0;
        while !crowd.path(COPY_EXTENSION).exists() {
            number += 1;
            crowd.add(number);
        }
        crowd.use_(1);
        crowd.remove(2);
        crowd.is_remembered();
        assert!(!crowd.path(COPY_EXTENSION).exists(), "the next agent removes it");
    }

    #[test]
    fn a_torn_line_of_a_log_is_cut_off() {
        let mut crowd = Crowd::new();
        (1..=10_000).for_each(|number| crowd.add(number));
        let mut log = OpenOptions::new().append(true).open(crowd.path(EXTENSION)).unwrap();
        log.write_all(br#"{"record":"gra"#).unwrap();
        crowd.is_remembered();
        crowd.add(10_001);
        crowd.is_remembered();
    }

    #[test]
    fn a_full_disk_leaves_what_was_there() {
        let mut crowd = Crowd::new();
        (1..=10_000).for_each(|number| crowd.add(number));
        crowd.journals.fill_the_disk();
        let more = Record::Used { grant: GrantId(7) };
        assert!(crowd.journal.append(&more).is_err());
        crowd.is_remembered();
    }

    #[test]
    fn the_end_takes_the_log_with_it() {
        let mut crowd = Crowd::new();
        (1..=10_000).for_each(|number| crowd.add(number));
        assert!(crowd.path(EXTENSION).exists());
        crowd.journals.acknowledge(&id(), Status::Terminated).unwrap();
        assert_eq!(std::fs::read_dir(crowd.dir.path().join("backends")).unwrap().count(), 0);
    }
}
