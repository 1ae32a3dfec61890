//! Ids that ended here or were deleted, so that a late `PUT` cannot start them again and a late
//! question gets its answer. Bounded in number and age; one append-only file, rewritten when it has
//! grown to twice what it holds. A failed append is cut off, so that the next line is whole; a line
//! that is torn all the same costs itself alone.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jetway_protocol::ids::{BackendId, FencingToken};
use jetway_protocol::status::{End, EndReason};
use jetway_protocol::time::UnixMicros;
use serde::{Deserialize, Serialize};

use super::appending::Appending;

/// Tombstones kept, at most.
const TOMBSTONES_MAX: usize = 100_000;
/// Those older than this are left out when the file is rewritten. A wall-clock stamp is good enough for housekeeping:
/// a controller repeats a `PUT` for minutes, not for a day.
const AGE_MICROS_MAX: u64 = 24 * 60 * 60 * 1_000_000;
/// Lines beyond twice the tombstones before the file is rewritten.
const SLACK_LINES: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    pub id: BackendId,
    /// `None`: deleted before it was ever put.
    pub fencing_token: Option<FencingToken>,
    pub end: End,
    pub at: UnixMicros,
}

impl Tombstone {
    /// For an id that no container was made for.
    pub fn of_what_never_ran(id: &BackendId, reason: EndReason, message: &str) -> Self {
        let end = End {
            reason,
            kind: None,
            exit_code: None,
            oom_killed: false,
            message: message.to_owned(),
            output: String::new(),
        };
        Self { id: id.clone(), fencing_token: None, end, at: UnixMicros::now() }
    }
}

#[derive(Debug)]
pub struct Tombstones {
    path: PathBuf,
    file: File,
    appending: Appending,
    lines: usize,
    by_id: HashMap<BackendId, Tombstone>,
    order: VecDeque<BackendId>,
}

impl Tombstones {
    /// Reads what is there, leaves out what is old or torn, and rewrites the file.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join("tombstones.ndjson");
        // Bytes: a line may be torn in the middle of a character.
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let (appending, by_id, order) = (Appending::default(), HashMap::new(), VecDeque::new());
        let mut all = Self { path, file, appending, lines: 0, by_id, order };
        let lines = text.split(|byte| *byte == b'\n');
        for tombstone in lines.filter_map(|line| serde_json::from_slice(line).ok()) {
            all.insert(tombstone);
        }
        all.rewrite()?;
        Ok(all)
    }

    pub fn get(&self, id: &BackendId) -> Option<&Tombstone> {
        self.by_id.get(id)
    }

    /// A later one for the same id replaces the earlier.
    pub fn set(&mut self, mut tombstone: Tombstone) -> io::Result<()> {
        // The output of a failed start went out with the event; here it would only take room.
        tombstone.end.output.clear();
        let mut line = serde_json::to_vec(&tombstone)?;
        line.push(b'\n');
        self.insert(tombstone);
        self.appending.append(&self.file, &line)?;
        self.lines += 1;
        if self.lines > 2 * self.by_id.len() + SLACK_LINES { self.rewrite() } else { Ok(()) }
    }

    fn insert(&mut self, tombstone: Tombstone) {
        let id = tombstone.id.clone();
        if self.by_id.insert(id.clone(), tombstone).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > TOMBSTONES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let now = UnixMicros::now();
        self.by_id.retain(|_, tombstone| now.since(tombstone.at) < AGE_MICROS_MAX);
        self.order.retain(|id| self.by_id.contains_key(id));
        let unfinished = self.path.with_extension("new");
        let mut text = Vec::new();
        for tombstone in self.order.iter().filter_map(|id| self.by_id.get(id)) {
            serde_json::to_writer(&mut text, tombstone)?;
            text.push(b'\n');
        }
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&text)?;
        std::fs::rename(&unfinished, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.lines = self.by_id.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::status::EndReason;

    use super::*;
    use crate::store::data_dir::tests::TestDir;

    fn tombstone(id: &str, at: UnixMicros) -> Tombstone {
        let end = End {
            reason: EndReason::External,
            kind: None,
            exit_code: None,
            oom_killed: false,
            message: String::new(),
            output: "long".into(),
        };
        Tombstone { id: id.parse().unwrap(), fencing_token: Some(FencingToken(1)), end, at }
    }

    #[test]
    fn a_failed_append_costs_no_other_tombstone() {
        use std::sync::atomic::Ordering::SeqCst;
        let dir = TestDir::new();
        let mut all = Tombstones::open(dir.path()).unwrap();
        all.set(tombstone("before", UnixMicros::now())).unwrap();
        all.appending.disk_is_full.store(true, SeqCst);
        assert!(all.set(tombstone("failed", UnixMicros::now())).is_err());
        all.appending.disk_is_full.store(false, SeqCst);
        all.set(tombstone("after", UnixMicros::now())).unwrap();
        let again = Tombstones::open(dir.path()).unwrap();
        for id in ["before", "after"] {
            assert!(again.get(&id.parse().unwrap()).is_some(), "{id}");
        }
    }

    #[test]
    fn a_line_torn_inside_a_character_is_left_out() {
        let dir = TestDir::new();
        Tombstones::open(dir.path()).unwrap().set(tombstone("whole", UnixMicros::now())).unwrap();
        let path = dir.path().join("tombstones.ndjson");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(&"{\"message\":\"é".as_bytes()[..13]);
        assert!(std::str::from_utf8(&bytes).is_err());
        std::fs::write(&path, bytes).unwrap();
        assert!(Tombstones::open(dir.path()).unwrap().get(&"whole".parse().unwrap()).is_some());
    }

    #[test]
    fn survives_a_restart_and_forgets_the_old_and_the_torn() {
        let dir = TestDir::new();
        let mut all = Tombstones::open(dir.path()).unwrap();
        let hours_ago = |hours: i64| UnixMicros(UnixMicros::now().0 - hours * 3_600_000_000);
        all.set(tombstone("old", hours_ago(25))).unwrap();
        all.set(tombstone("new", hours_ago(23))).unwrap();
        all.file.write_all(b"{\"id\":\"tor").unwrap();
        let all = Tombstones::open(dir.path()).unwrap();
        assert!(all.get(&"old".parse().unwrap()).is_none());
        assert_eq!(all.get(&"new".parse().unwrap()).unwrap().end.output, "");
    }
}
