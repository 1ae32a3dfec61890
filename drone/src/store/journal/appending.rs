//! Appending to a file of lines, so that it has whole lines whatever fails. Not its business: what
//! the lines say.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

/// One append at a time: a backend's task and the one that notes acknowledgements write the same
/// file through handles of their own, and cutting off what one left must not cut off the other's
/// record. Held for one `write`.
#[derive(Debug, Clone, Default)]
pub struct Appending {
    lock: Arc<Mutex<()>>,
    /// From then on appends fail in the middle, as on a full disk.
    #[cfg(test)]
    pub disk_is_full: Arc<std::sync::atomic::AtomicBool>,
}

impl Appending {
    /// All of the lines or nothing.
    pub fn append(&self, file: &File, lines: &[u8]) -> io::Result<()> {
        let _one_at_a_time = self.lock.lock();
        let whole = file.metadata()?.len();
        self.write(file, lines).inspect_err(|_| {
            if let Err(error) = file.set_len(whole) {
                tracing::error!(%error, "a torn line cannot be cut off");
            }
        })
    }

    fn write(&self, mut file: &File, lines: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if self.disk_is_full.load(std::sync::atomic::Ordering::SeqCst) {
            file.write_all(&lines[..lines.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all(lines)
    }
}

pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub fn lines(records: &[impl Serialize]) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    Ok(lines)
}
