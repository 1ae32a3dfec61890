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
}
