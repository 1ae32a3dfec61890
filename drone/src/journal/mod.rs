//! What the agent must still know after its own death: one append-only file a backend, one JSON record a line.
//!
//! Nothing is fsynced. The journal has to survive the agent, not the host: what an agent wrote is in the kernel's
//! cache and outlives `kill -9`, and when the host dies its containers are dead too. Each record is one `write`, and
//! what a failed one left is cut off at once; a file ends with a whole record, or after `kill -9` with one torn line,
//! which is cut off by the next agent. A file appears by rename, with its first
//! records in it, and is deleted once a controller has acknowledged the end.
//!
//! Which records are written when is the backend's business.

mod record;
mod tombstones;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jetway_protocol::ids::BackendId;
use jetway_protocol::status::Status;

pub use record::{Place, Record, Remembered};
pub use tombstones::{Tombstone, Tombstones};

const EXTENSION: &str = "ndjson";

/// The directory with every backend's file.
#[derive(Debug, Clone)]
pub struct Journals {
    directory: PathBuf,
    appending: Appending,
}

/// One append at a time: a backend's task and the one that notes acknowledgements write the same file through handles
/// of their own, and cutting off what one left must not cut off the other's record. Held for one `write`.
#[derive(Debug, Clone, Default)]
struct Appending {
    lock: Arc<Mutex<()>>,
    /// From then on appends fail in the middle, as on a full disk.
    #[cfg(test)]
    disk_is_full: Arc<std::sync::atomic::AtomicBool>,
}

impl Appending {
    fn append(&self, file: &mut File, records: &[Record]) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in records {
            append_line(&mut lines, record)?;
        }
        let _one_at_a_time = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = file.metadata()?.len();
        self.write(file, &lines).inspect_err(|_| {
            if let Err(error) = file.set_len(whole) {
                tracing::error!(%error, "a torn journal record cannot be cut off");
            }
        })
    }

    fn write(&self, mut file: &File, line: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if self.disk_is_full.load(std::sync::atomic::Ordering::SeqCst) {
            file.write_all(&line[..line.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all(line)
    }
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
        let mut text = Vec::new();
        for record in first {
            append_line(&mut text, record)?;
        }
        file.write_all(&text)?;
        std::fs::rename(&unfinished, &path)?;
        Ok(Journal { file, appending: self.appending.clone() })
    }

    /// Every backend that was not forgotten. What cannot be read is named in the log and set aside.
    pub fn load(&self) -> io::Result<Vec<(Remembered, Journal)>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(EXTENSION) => {}
                Some("new") => {
                    std::fs::remove_file(&path)?;
                    continue;
                }
                _ => continue,
            }
            match read(&path) {
                Ok((remembered, file)) => {
                    all.push((remembered, Journal { file, appending: self.appending.clone() }));
                }
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
            return remove_if_there(&path);
        }
        match OpenOptions::new().append(true).open(&path) {
            Ok(mut file) => self.appending.append(&mut file, &[Record::Acknowledged { status }]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn path(&self, id: &BackendId) -> PathBuf {
        self.directory.join(id.as_str()).with_extension(EXTENSION)
    }
}

/// One backend's file, open for appending.
#[derive(Debug)]
pub struct Journal {
    file: File,
    appending: Appending,
}

impl Journal {
    /// All of it or nothing.
    pub fn append(&mut self, record: &Record) -> io::Result<()> {
        self.append_all(std::slice::from_ref(record))
    }

    /// In one write. An agent that is killed in it leaves the first ones whole, at worst.
    pub fn append_all(&mut self, records: &[Record]) -> io::Result<()> {
        self.appending.append(&mut self.file, records)
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn append_line(text: &mut Vec<u8>, record: &Record) -> io::Result<()> {
    serde_json::to_writer(&mut *text, record)?;
    text.push(b'\n');
    Ok(())
}

fn read(path: &Path) -> io::Result<(Remembered, File)> {
    let text = std::fs::read(path)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let file = OpenOptions::new().append(true).open(path)?;
    if whole < text.len() {
        file.set_len(u64::try_from(whole).unwrap_or(0))?;
    }
    let mut remembered: Option<Remembered> = None;
    for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let record: Record = serde_json::from_slice(line)?;
        match &mut remembered {
            Some(remembered) => remembered.apply(record),
            None => remembered = Some(Remembered::first(record).ok_or(io::ErrorKind::InvalidData)?),
        }
    }
    let remembered = remembered.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((remembered, file))
}

#[cfg(test)]
mod tests {
    use jetway_protocol::drone_api::PutBackend;
    use jetway_protocol::grant::Grant;
    use jetway_protocol::ids::{FencingToken, GrantId, Term};
    use jetway_protocol::spec::{BackendSpec, Executable};
    use jetway_protocol::time::UnixMicros;

    use super::*;
    use crate::data_dir::tests::TestDir;

    fn put() -> Record {
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
