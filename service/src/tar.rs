//! Archives of plain files (POSIX.1-2017 pax, "ustar"): all that an image of ours is made of. Files
//! are owned by root and have no date, so that the same files make the same bytes.

const BLOCK: usize = 512;
const PATH_BYTES_MAX: usize = 100;

/// One file of an archive.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// Relative to the root, at most 100 bytes: what is longer is cut off.
    pub path: &'a str,
    pub mode: u32,
    pub bytes: &'a [u8],
}

/// All of them, whole.
pub fn archive(files: &[File<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for file in files {
        archive.extend_from_slice(&header(file.path, file.mode, file.bytes.len() as u64));
        archive.extend_from_slice(file.bytes);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

/// What stands before a file's bytes.
pub fn header(path: &str, mode: u32, bytes: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, length: usize, text: &str| {
        for (to, from) in header.iter_mut().skip(at).take(length).zip(text.bytes()) {
            *to = from;
        }
    };
    put(0, PATH_BYTES_MAX, path);
    put(100, 8, &format!("{:07o}", mode & 0o7777));
    put(108, 8, "0000000");
    put(116, 8, "0000000");
    put(124, 12, &format!("{bytes:011o}"));
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

/// What follows the bytes of the last file: zeros to the block's end, and two blocks that end the
/// archive.
pub fn trailer(bytes: u64) -> Vec<u8> {
    let over = usize::try_from(bytes % BLOCK as u64).unwrap_or(0);
    vec![0; (BLOCK - over) % BLOCK + 2 * BLOCK]
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
        if text(0, PATH_BYTES_MAX) == name && matches!(header.get(156), Some(b'0' | 0)) {
            return after.get(..length);
        }
        rest = after.get(length.checked_next_multiple_of(BLOCK)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_whole_blocks_with_a_right_sum() {
        let archive = archive(&[File { path: "bin/app", mode: 0o755, bytes: b"hello" }]);
        assert_eq!(archive.len(), BLOCK * 4);
        let stated = std::str::from_utf8(&archive[148..154]).unwrap();
        let mut header = archive[..BLOCK].to_vec();
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(u32::from_str_radix(stated, 8).unwrap(), sum);
        assert_eq!(&archive[BLOCK..BLOCK + 5], b"hello");
    }

    #[test]
    fn a_stream_of_one_file_is_its_archive() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1] {
            let bytes = vec![7; length];
            let streamed =
                [header("app", 0o755, length as u64).as_slice(), &bytes, &trailer(length as u64)].concat();
            assert_eq!(streamed, archive(&[File { path: "app", mode: 0o755, bytes: &bytes }]), "{length}");
        }
    }

    #[test]
    fn a_file_is_found_in_an_archive() {
        let file = |path, bytes| File { path, mode: 0o644, bytes };
        let archive = archive(&[file("group", b"one"), file("passwd", b"two")]);
        assert_eq!(file_in(&archive, "passwd"), Some(&b"two"[..]));
        assert_eq!(file_in(&archive, "shadow"), None);
        assert_eq!(file_in(&archive[..archive.len() - 3 * BLOCK], "passwd"), None, "cut off");
        assert_eq!(file_in(b"nonsense", "passwd"), None);
    }

    #[test]
    fn tar_reads_it() {
        let content = b"#!/bin/sh\n".repeat(60);
        let directory = std::env::temp_dir().join(format!("jetway-tar-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let at = directory.join("a.tar");
        std::fs::write(&at, archive(&[File { path: "jetway", mode: 0o755, bytes: &content }])).unwrap();
        let status = std::process::Command::new("tar").arg("-xf").arg(&at).arg("-C").arg(&directory).status();
        assert!(status.unwrap().success());
        assert_eq!(std::fs::read(directory.join("jetway")).unwrap(), content);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
