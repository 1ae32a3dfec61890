//! The end of what each ended session printed: one file a session in the data directory, so that it
//! outlives the container and the agent. The files are bounded in size, age and together; the
//! oldest goes first.
//!
//! It is read while the container that ended is still there, after the end was reported: the key is
//! free by then. What a failed start printed last goes to the controller with the end itself
//! ([`crate::backend`]).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::StreamExt;
use jetway_protocol::ids::{BackendId, SlotId};
use jetway_protocol::time::UnixMicros;
use jetway_service::backoff::{Backoff, jittered};
use parking_lot::{Mutex, MutexGuard};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::engine::Engine;
use crate::runtime::{LogQuery, RuntimeError};

/// Of one session, with the time of each line.
pub const BYTES_MAX: usize = 64 * 1024;
/// Of all sessions together, counted in blocks of a disk.
const TOTAL_BYTES_MAX: u64 = 256 * 1024 * 1024;
const BLOCK_BYTES: u64 = 4096;
/// As long as ended sessions are remembered at all.
const AGE_MICROS_MAX: u64 = 24 * 60 * 60 * 1_000_000;
const LOOK: Duration = Duration::from_secs(60);

/// Lines that are asked for: the first number is enough for most, and no 64 KiB have more than the
/// second, because each line begins with its time and a space.
const LINES_FIRST: u32 = 256;
const LINES_MAX: u32 = 2048;
/// For the engine to give them. The container's removal waits for it, and nothing else does.
const READ_MAX: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);

const EXTENSION: &str = "log";
const UNFINISHED: &str = "new";

/// Which files there are, and which of them have to go. No I/O.
#[derive(Debug)]
struct Book {
    total_max: u64,
    total: u64,
    files: HashMap<BackendId, (UnixMicros, u64)>,
    by_age: BTreeSet<(UnixMicros, BackendId)>,
}

impl Book {
    fn new(total_max: u64) -> Self {
        Self { total_max, total: 0, files: HashMap::new(), by_age: BTreeSet::new() }
    }

    /// Those that make room for it, oldest first.
    fn add(&mut self, id: BackendId, bytes: u64, at: UnixMicros) -> Vec<BackendId> {
        self.remove(&id);
        let bytes = bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
        self.total += bytes;
        self.files.insert(id.clone(), (at, bytes));
        self.by_age.insert((at, id));
        let mut gone = Vec::new();
        while self.total > self.total_max
            && let Some((_, oldest)) = self.by_age.first().cloned()
        {
            self.remove(&oldest);
            gone.push(oldest);
        }
        gone
    }

    /// Takes out what is older than a day.
    fn expire(&mut self, now: UnixMicros) -> Vec<BackendId> {
        let old: Vec<BackendId> = self
            .by_age
            .iter()
            .take_while(|(at, _)| now.since(*at) > AGE_MICROS_MAX)
            .map(|(_, id)| id.clone())
            .collect();
        old.iter().for_each(|id| self.remove(id));
        old
    }

    fn remove(&mut self, id: &BackendId) {
        if let Some((at, bytes)) = self.files.remove(id) {
            self.by_age.remove(&(at, id.clone()));
            self.total -= bytes;
        }
    }
}

#[derive(Debug)]
pub struct LastOutputs {
    directory: PathBuf,
    book: Mutex<Book>,
}

impl LastOutputs {
    /// What an earlier agent has kept is found again; what it did not finish is removed.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let directory = data_dir.join("output");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let mut book = Book::new(TOTAL_BYTES_MAX);
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()?.parse::<BackendId>().ok());
            match id.filter(|_| path.extension().is_some_and(|extension| extension == EXTENSION)) {
                Some(id) => {
                    let found = path.metadata()?;
                    let age = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                    let at = UnixMicros(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
                    book.add(id, found.len(), at).iter().for_each(|gone| remove_file(&directory, gone));
                }
                None => drop(std::fs::remove_file(&path)),
            }
        }
        Ok(Self { directory, book: Mutex::new(book) })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }

    /// What is kept of a session: lines, each with its time.
    pub async fn read(&self, id: &BackendId) -> Option<Vec<u8>> {
        tokio::fs::read(path_of(&self.directory, id)).await.ok()
    }

    async fn write(&self, id: &BackendId, output: &[u8]) -> io::Result<()> {
        let path = path_of(&self.directory, id);
        let unfinished = path.with_extension(UNFINISHED);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = tokio::fs::OpenOptions::from(options).open(&unfinished).await?;
        file.write_all(output).await?;
        file.flush().await?;
        tokio::fs::rename(&unfinished, &path).await?;
        let length = u64::try_from(output.len()).unwrap_or(u64::MAX);
        let gone = self.book().add(id.clone(), length, UnixMicros::now());
        gone.iter().for_each(|gone| remove_file(&self.directory, gone));
        Ok(())
    }

    fn forget_old(&self, now: UnixMicros) {
        let old = self.book().expire(now);
        old.iter().for_each(|id| remove_file(&self.directory, id));
    }
}

fn path_of(directory: &Path, id: &BackendId) -> PathBuf {
    directory.join(format!("{id}.{EXTENSION}"))
}

fn remove_file(directory: &Path, id: &BackendId) {
    if let Err(error) = std::fs::remove_file(path_of(directory, id))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(backend = %id, %error, "an old output cannot be removed");
    }
}

/// A task: removes what is older than a day.
pub async fn forget_old(outputs: Arc<LastOutputs>) {
    loop {
        outputs.forget_old(UnixMicros::now());
        tokio::time::sleep(jittered(LOOK)).await;
    }
}

/// Keeps what the container of an ended session printed last. Its removal comes next: an engine
/// that is away is waited for, as the removal waits for it.
pub async fn keep(engine: &Engine, outputs: &LastOutputs, slot: SlotId, id: &BackendId) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let output = loop {
        let read = {
            let _permit = engine.removals.acquire().await;
            last_of(engine, slot).await
        };
        match read {
            Ok(output) => break output,
            Err(RuntimeError::Absent) => return,
            Err(RuntimeError::Unreachable(_)) => {}
            Err(error) => return tracing::warn!(backend = %id, %error, "its last output cannot be read"),
        }
        backoff.wait().await;
    };
    if output.is_empty() {
        return;
    }
    if let Err(error) = outputs.write(id, &output).await {
        tracing::warn!(backend = %id, %error, "its last output cannot be kept");
    }
}

/// What the container has printed last, each line with its time.
pub async fn last_of(engine: &Engine, slot: SlotId) -> Result<Vec<u8>, RuntimeError> {
    let read = async {
        let output = tail_of(engine, slot, LINES_FIRST).await?;
        let lines = output.iter().filter(|byte| **byte == b'\n').count();
        if output.len() < BYTES_MAX && u32::try_from(lines).is_ok_and(|lines| lines >= LINES_FIRST) {
            return tail_of(engine, slot, LINES_MAX).await;
        }
        Ok(output)
    };
    let in_time = timeout(READ_MAX, read).await;
    in_time.unwrap_or_else(|_| Err(RuntimeError::Engine(format!("it takes over {} s", READ_MAX.as_secs()))))
}

async fn tail_of(engine: &Engine, slot: SlotId, lines: u32) -> Result<Vec<u8>, RuntimeError> {
    let query = LogQuery { tail: Some(lines), follow: false, timestamps: true };
    let mut chunks = engine.runtime.logs(slot, query).await?;
    let (mut last, mut is_cut) = (VecDeque::with_capacity(BYTES_MAX), false);
    while let Some(chunk) = chunks.next().await {
        last.extend(chunk?);
        let excess = last.len().saturating_sub(BYTES_MAX);
        last.drain(..excess);
        is_cut |= excess > 0;
    }
    let mut last = Vec::from(last);
    // Whole lines, where there is more than one.
    if is_cut
        && let Some(end) = last.iter().position(|byte| *byte == b'\n').filter(|end| end + 1 < last.len())
    {
        last.drain(..=end);
    }
    Ok(last)
}

/// The last lines of what is kept, with or without their times.
pub fn shown(kept: &[u8], tail: Option<u32>, timestamps: bool) -> Vec<u8> {
    let lines: Vec<&[u8]> = kept.split_inclusive(|byte| *byte == b'\n').collect();
    let skipped =
        tail.and_then(|tail| usize::try_from(tail).ok()).map_or(0, |tail| lines.len().saturating_sub(tail));
    let without_time = |line: &'_ [u8]| match line.iter().position(|byte| *byte == b' ') {
        Some(end) => line[end + 1..].to_vec(),
        None => line.to_vec(),
    };
    let shown = lines.into_iter().skip(skipped);
    shown.flat_map(|line| if timestamps { line.to_vec() } else { without_time(line) }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::data_dir::tests::TestDir;

    fn id(text: &str) -> BackendId {
        text.parse().unwrap()
    }

    #[test]
    fn the_oldest_make_room_for_the_newest() {
        let mut book = Book::new(3 * BLOCK_BYTES);
        assert!(book.add(id("b"), 1, UnixMicros(2)).is_empty());
        assert!(book.add(id("a"), 1, UnixMicros(1)).is_empty());
        assert!(book.add(id("c"), BLOCK_BYTES, UnixMicros(3)).is_empty());
        assert_eq!(book.add(id("d"), BLOCK_BYTES + 1, UnixMicros(4)), [id("a"), id("b")]);
        // The same once more takes its own place.
        assert!(book.add(id("d"), 1, UnixMicros(5)).is_empty());
        assert_eq!((book.total, book.files.len(), book.by_age.len()), (2 * BLOCK_BYTES, 2, 2));
    }

    #[test]
    fn what_is_older_than_a_day_expires() {
        let mut book = Book::new(u64::MAX);
        let day = i64::try_from(AGE_MICROS_MAX).unwrap();
        book.add(id("old"), 1, UnixMicros(0));
        book.add(id("young"), 1, UnixMicros(10));
        assert_eq!(book.expire(UnixMicros(day + 5)), [id("old")]);
        assert_eq!((book.total, book.expire(UnixMicros(day + 5)).len()), (BLOCK_BYTES, 0));
    }

    #[test]
    fn lines_are_shown_with_and_without_their_times() {
        let kept = b"2026-01-01T00:00:00.1Z one two\n2026-01-01T00:00:00.2Z three";
        assert_eq!(shown(kept, None, false), b"one two\nthree");
        assert_eq!(shown(kept, None, true), kept);
        assert_eq!(shown(kept, Some(1), false), b"three");
        assert_eq!(shown(kept, Some(0), false), b"");
        assert_eq!(shown(b"", None, false), b"");
    }

    #[tokio::test]
    async fn files_outlive_the_agent_and_are_its_users_alone() {
        let dir = TestDir::new();
        let outputs = LastOutputs::open(dir.path()).unwrap();
        outputs.write(&id("b"), b"t hello\n").await.unwrap();
        std::fs::write(dir.path().join("output/c.new"), "torn").unwrap();
        drop(outputs);
        let outputs = LastOutputs::open(dir.path()).unwrap();
        assert_eq!(outputs.read(&id("b")).await.unwrap(), b"t hello\n");
        assert_eq!(outputs.read(&id("c")).await, None);
        assert!(!dir.path().join("output/c.new").exists());
        let mode = |path: &str| dir.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("output"), mode("output/b.log")), (0o700, 0o600));
        let tomorrow = UnixMicros(UnixMicros::now().0 + i64::try_from(AGE_MICROS_MAX).unwrap() + 1_000_000);
        outputs.forget_old(tomorrow);
        assert_eq!(outputs.read(&id("b")).await, None);
    }
}
