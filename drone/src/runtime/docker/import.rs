//! An image made from a few files of ours, without a registry: the demo, the helper, the tests. Not its business:
//! images that others made.

use bollard::query_parameters::CreateImageOptionsBuilder;
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::engine::{Engine, meaning};
use crate::runtime::RuntimeError;

const BLOCK: usize = 512;

/// One file of the image; its directories are made.
#[derive(Debug, Clone)]
pub struct ImageFile {
    /// Relative to the image's root, at most 100 bytes.
    pub path: String,
    pub bytes: Bytes,
    pub mode: u32,
}

/// Makes `name:tag` anew. `changes` are Dockerfile lines, as `ENTRYPOINT ["/app"]` or `USER 65534`.
pub async fn import(
    engine: &Engine,
    name: &str,
    tag: &str,
    files: &[ImageFile],
    changes: &[String],
) -> Result<(), RuntimeError> {
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(name)
        .tag(tag)
        .changes(changes.to_vec())
        .build();
    let body = bollard::body_full(Bytes::from(tar(files)));
    let lines = engine.docker().create_image(Some(options), Some(body), None);
    lines.try_for_each(|_| async { Ok(()) }).await.map_err(|error| meaning(&error))
}

/// An archive of plain files (POSIX ustar), owned by root, with no times in it: the same files make the same bytes.
pub fn tar(files: &[ImageFile]) -> Vec<u8> {
    let mut archive = Vec::new();
    for file in files {
        archive.extend_from_slice(&header(file));
        archive.extend_from_slice(&file.bytes);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

/// The plain file of that name in an archive, as an engine copies one out of a container.
pub fn file_in<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = archive;
    loop {
        let (header, after) = rest.split_at_checked(BLOCK)?;
        let text = |at: usize, length: usize| {
            let field = header.get(at..at + length).unwrap_or_default();
            let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
            std::str::from_utf8(field.get(..end).unwrap_or_default()).unwrap_or_default().trim()
        };
        let length = usize::from_str_radix(text(124, 12), 8).ok()?;
        if text(0, 100) == name && matches!(header.get(156), Some(b'0' | 0)) {
            return after.get(..length);
        }
        rest = after.get(length.checked_next_multiple_of(BLOCK)?..)?;
    }
}

fn header(file: &ImageFile) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, length: usize, text: &str| {
        for (to, from) in header.iter_mut().skip(at).take(length).zip(text.bytes()) {
            *to = from;
        }
    };
    put(0, 100, &file.path);
    put(100, 8, &format!("{:07o}", file.mode & 0o7777));
    put(108, 8, "0000000");
    put(116, 8, "0000000");
    put(124, 12, &format!("{:011o}", file.bytes.len()));
    put(136, 12, "00000000000");
    // The sum is made with spaces in its own place.
    put(148, 8, "        ");
    put(156, 1, "0");
    put(257, 8, "ustar\u{0}00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    for (to, from) in header.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
        *to = from;
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_whole_blocks_with_a_right_sum() {
        let file = ImageFile { path: "bin/app".to_owned(), bytes: Bytes::from_static(b"hello"), mode: 0o755 };
        let archive = tar(std::slice::from_ref(&file));
        assert_eq!(archive.len(), BLOCK * 4);
        let stated = std::str::from_utf8(&archive[148..154]).unwrap();
        let mut header = archive[..BLOCK].to_vec();
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(u32::from_str_radix(stated, 8).unwrap(), sum);
        assert_eq!(&archive[BLOCK..BLOCK + 5], b"hello");
    }
    #[test]
    fn a_file_is_found_in_an_archive() {
        let file = |path: &str, text: &'static str| ImageFile {
            path: path.to_owned(),
            bytes: Bytes::from_static(text.as_bytes()),
            mode: 0o644,
        };
        let archive = tar(&[file("group", "one"), file("passwd", "two")]);
        assert_eq!(file_in(&archive, "passwd"), Some(&b"two"[..]));
        assert_eq!(file_in(&archive, "shadow"), None);
        assert_eq!(file_in(&archive[..archive.len() - 3 * BLOCK], "passwd"), None, "cut off");
        assert_eq!(file_in(b"nonsense", "passwd"), None);
    }
}
