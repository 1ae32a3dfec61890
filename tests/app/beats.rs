//! The file that a session of the chaos run keeps about itself: who it is, and when it was last alive. One process
//! writes it, in place and never synced, every few milliseconds; the checker reads it from the host, whatever became
//! of the container. What follows from such files is not its business.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where the texts begin; the numbers before it are rewritten with every beat.
const TEXT_AT: usize = 88;
const MAGIC: u64 = u64::from_le_bytes(*b"jcxbeat1");

/// Times are nanoseconds of CLOCK_BOOTTIME, 0 for never.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Beats {
    pub fence: u64,
    pub first: u64,
    pub last: u64,
    pub count: u64,
    /// The longest time between two beats.
    pub gap_max: u64,
    pub told_to_stop: u64,
    /// It left by itself, or after it was told to.
    pub left: u64,
    /// Its key's lock was another process's when it began: that one lived, whatever it wrote last.
    pub beside: u64,
    /// Requests with a body that it has carried out.
    pub posts: u64,
    /// Of those, the ones that it had carried out before.
    pub again: u64,
    pub key: String,
    pub backend: String,
}

impl Beats {
    fn numbers(&self) -> [u8; TEXT_AT] {
        let mut out = [0; TEXT_AT];
        let numbers = [
            MAGIC,
            self.fence,
            self.first,
            self.last,
            self.count,
            self.gap_max,
            self.told_to_stop,
            self.left,
            self.beside,
            self.posts,
            self.again,
        ];
        for (place, number) in out.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    /// The file's name, so that one that was never written says whose it is.
    pub fn file_name(&self) -> String {
        format!("{}.{}", self.backend, self.first)
    }

    /// Of a process that was killed before it had written its file: it began, and no more is known
    /// of it.
    pub fn of_file_name(name: &str) -> Option<Self> {
        let (backend, first) = name.rsplit_once('.')?;
        let first = first.parse().ok()?;
        Some(Self {
            first,
            last: first,
            // Of no other session's, so that nothing follows from it.
            key: format!("unknown, of {backend}"),
            backend: backend.to_owned(),
            ..Self::default()
        })
    }

    /// The whole file, once, before the first beat.
    pub fn create(&self, file: &File) -> io::Result<()> {
        file.write_all_at(format!("{}\n{}\n", self.key, self.backend).as_bytes(), TEXT_AT as u64)?;
        file.write_all_at(&self.numbers(), 0)
    }

    pub fn beat(&mut self, file: &File, now: u64) -> io::Result<()> {
        self.gap_max = self.gap_max.max(now.saturating_sub(self.last));
        self.last = now;
        self.count += 1;
        file.write_all_at(&self.numbers(), 0)
    }

    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (numbers, text) = bytes.split_at_checked(TEXT_AT)?;
        let mut numbers =
            numbers.chunks_exact(8).filter_map(|place| Some(u64::from_le_bytes(place.try_into().ok()?)));
        if numbers.next()? != MAGIC {
            return None;
        }
        let mut next = || numbers.next();
        let (fence, first, last, count, gap_max) = (next()?, next()?, next()?, next()?, next()?);
        let (told_to_stop, left, beside, posts, again) = (next()?, next()?, next()?, next()?, next()?);
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        let (key, backend) = (lines.next()?.to_owned(), lines.next()?.to_owned());
        Some(Self {
            fence,
            first,
            last,
            count,
            gap_max,
            told_to_stop,
            left,
            beside,
            posts,
            again,
            key,
            backend,
        })
    }
}
