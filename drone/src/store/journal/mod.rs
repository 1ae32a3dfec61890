//! What the agent must still know after its own death: one append-only file a backend, one JSON record a line.
//!
//! Nothing is fsynced. The journal has to survive the agent, not the host: what an agent wrote is
//! in the kernel's cache and outlives `kill -9`, and when the host dies its containers are dead
//! too. Each record is one `write`, and what a failed one left is cut off at once; a file ends with
//! a whole record, or after `kill -9` with one torn line, which is cut off by the next agent. A
//! file appears by rename, with its first records in it, and is deleted once a controller has
//! acknowledged the end. A popular backend's grants have a file of their own ([`grant_log`]).
//!
//! Which records are written when is the backend's business.

mod appending;
mod grant_log;
mod record;
mod tombstones;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jetway_protocol::ids::BackendId;
use jetway_protocol::status::Status;

use crate::grants::Grants;
use appending::{Appending, lines, remove_if_there};
use grant_log::GrantLog;
pub use record::{Place, Record, Remembered};
pub use tombstones::{Tombstone, Tombstones};

const EXTENSION: &str = "ndjson";

/// The directory with every backend's file.
#[derive(Debug, Clone)]
pub struct Journals {
    directory: PathBuf,
    appending: Appending,
}

impl Journals {
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let directory = data_dir.join("backends");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Self { directory, appending: Appending::default() })
    }

    #[cfg(test)]
    pub fn fill_the_disk(&self) {
        self.appending.disk_is_full.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// A new backend's file, complete with its first records before it can be seen.
    pub fn create(&self, id: &BackendId, first: &[Record]) -> io::Result<Journal> {
        let path = self.path(id);
        let unfinished = path.with_extension("new");
        remove_if_there(&unfinished)?;
        // Append mode, since acknowledgements are written through a handle of their own.
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&lines(first)?)?;
        std::fs::rename(&unfinished, &path)?;
        Ok(self.journal(&path, file, 0))
    }

    fn journal(&self, path: &Path, file: File, grants_bytes: u64) -> Journal {
        let grants = GrantLog::of(path, self.appending.clone(), grants_bytes);
        Journal { file, appending: self.appending.clone(), grants }
    }

    /// Every backend that was not forgotten. What cannot be read is named in the log and set aside.
    pub fn load(&self) -> io::Result<Vec<(Remembered, Journal)>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(EXTENSION) => {}
                Some("new" | grant_log::COPY_EXTENSION) => {
                    std::fs::remove_file(&path)?;
                    continue;
                }
                Some(grant_log::EXTENSION) if !path.with_extension(EXTENSION).exists() => {
                    std::fs::remove_file(&path)?;
                    continue;
                }
                _ => continue,
            }
            match self.read(&path) {
                Ok(found) => all.push(found),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a journal cannot be read and is set aside");
                    std::fs::rename(&path, path.with_extension("broken"))?;
                }
            }
        }
        Ok(all)
    }

    /// Whether a backend was begun, and its end has not been acknowledged.
    pub fn has(&self, id: &BackendId) -> bool {
        // What cannot be told may be there.
        self.path(id).try_exists().unwrap_or(true)
    }

    /// Notes what a controller has stored. The end's acknowledgement is the file's end.
    pub fn acknowledge(&self, id: &BackendId, status: Status) -> io::Result<()> {
        let path = self.path(id);
        if status == Status::Terminated {
            remove_if_there(&path)?;
            remove_if_there(&path.with_extension(grant_log::COPY_EXTENSION))?;
            return remove_if_there(&path.with_extension(grant_log::EXTENSION));
        }
        match OpenOptions::new().append(true).open(&path) {
            Ok(file) => self.appending.append(&file, &lines(&[Record::Acknowledged { status }])?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn path(&self, id: &BackendId) -> PathBuf {
        self.directory.join(id.as_str()).with_extension(EXTENSION)
    }

    fn read(&self, path: &Path) -> io::Result<(Remembered, Journal)> {
        let text = std::fs::read(path)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let file = OpenOptions::new().append(true).open(path)?;
        if whole < text.len() {
            file.set_len(whole as u64)?;
        }
        let mut remembered: Option<Remembered> = None;
        let mut grants_bytes = 0;
        for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let record: Record = serde_json::from_slice(line)?;
            if record.is_of_grants() {
                grants_bytes += line.len() as u64 + 1;
            }
            match &mut remembered {
                Some(remembered) => remembered.apply(record),
                None => remembered = Some(Remembered::first(record).ok_or(io::ErrorKind::InvalidData)?),
            }
        }
        let mut remembered = remembered.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut journal = self.journal(path, file, grants_bytes);
        if let Some(grants) = journal.grants.read()? {
            remembered.grants = grants;
        }
        Ok((remembered, journal))
    }
}

/// One backend's file, open for appending.
#[derive(Debug)]
pub struct Journal {
    file: File,
    appending: Appending,
    grants: GrantLog,
}

impl Journal {
    /// All of it or nothing.
    pub fn append(&mut self, record: &Record) -> io::Result<()> {
        self.append_all(std::slice::from_ref(record))
    }

    /// In one write. An agent that is killed in it leaves the first ones whole, at worst. Records
    /// of grants come apart from others.
    pub fn append_all(&mut self, records: &[Record]) -> io::Result<()> {
        if records.iter().all(Record::is_of_grants) {
            return self.grants.append(&self.file, records);
        }
        self.appending.append(&self.file, &lines(records)?)
    }

    /// Writes the grants' records anew where most are of grants that are gone: a few at a time.
    /// True: there is more to be done.
    pub fn tidy(&mut self, grants: &Grants) -> bool {
        self.grants.tidy(grants)
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::drone_api::PutBackend;
    use jetway_protocol::grant::Grant;
    use jetway_protocol::ids::{FencingToken, GrantId, Term};
    use jetway_protocol::spec::{BackendSpec, Executable};
    use jetway_protocol::time::UnixMicros;

    use super::*;
    use crate::store::data_dir::tests::TestDir;

    pub fn put() -> Record {
        let put = PutBackend {
            term: Term(1),
            fencing_token: FencingToken(9),
            key: None,
            spec: BackendSpec::of(Executable::of_image("image")),
            grant: None,
            static_token: None,
            timeline: Vec::new(),
            or_never: false,
        };
        Record::Put { id: "b1".parse().unwrap(), at: UnixMicros(5), put: Box::new(put), boot_id: None }
    }

    fn grant(id: u64) -> Record {
        let grant = Grant {
            id: GrantId(id),
            user: None,
            auth: "{}".into(),
            secret: String::new(),
            allowed_origins: Vec::new(),
        };
        Record::Grant { grant, at: UnixMicros(6) }
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_the_next_record_is_whole() {
        let dir = TestDir::new();
        let journals = Journals::open(dir.path()).unwrap();
        let id: BackendId = "b1".parse().unwrap();
        journals.create(&id, &[put()]).unwrap().append(&grant(1)).unwrap();
        let path = journals.path(&id);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(br#"{"record":"gra"#).unwrap();

        let (remembered, mut journal) = journals.load().unwrap().pop().unwrap();
        assert!(remembered.grants.get(GrantId(1)).is_some());
        journal.append(&grant(2)).unwrap();
        let (remembered, _) = journals.load().unwrap().pop().unwrap();
        assert!(remembered.grants.get(GrantId(2)).is_some());
    }

    #[test]
    fn a_failed_append_leaves_nothing() {
        let dir = TestDir::new();
        let journals = Journals::open(dir.path()).unwrap();
        let id: BackendId = "b1".parse().unwrap();
        let mut journal = journals.create(&id, &[put()]).unwrap();
        let before = std::fs::read(journals.path(&id)).unwrap();
        journals.fill_the_disk();
        assert!(journal.append(&grant(1)).is_err());
        assert!(journals.acknowledge(&id, Status::Ready).is_err());
        assert_eq!(std::fs::read(journals.path(&id)).unwrap(), before);
    }

    #[test]
    fn an_acknowledged_end_deletes_the_file_and_repeating_is_harmless() {
        let dir = TestDir::new();
        let journals = Journals::open(dir.path()).unwrap();
        let id: BackendId = "b1".parse().unwrap();
        journals.create(&id, &[put()]).unwrap();
        journals.acknowledge(&id, Status::Ready).unwrap();
        assert_eq!(journals.load().unwrap()[0].0.acknowledged, Some(Status::Ready));
        for _ in 0..2 {
            journals.acknowledge(&id, Status::Terminated).unwrap();
        }
        assert!(journals.load().unwrap().is_empty());
        journals.acknowledge(&id, Status::Ready).unwrap();
        assert!(journals.load().unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_set_aside_and_nobody_else_can_read_the_rest() {
        use std::os::unix::fs::PermissionsExt;
        let dir = TestDir::new();
        let journals = Journals::open(dir.path()).unwrap();
        journals.create(&"b1".parse().unwrap(), &[put()]).unwrap();
        std::fs::write(journals.path(&"b2".parse().unwrap()), "nonsense\n").unwrap();
        assert_eq!(journals.load().unwrap().len(), 1);
        assert!(journals.directory.join("b2.broken").exists());
        let mode = std::fs::metadata(journals.path(&"b1".parse().unwrap())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
