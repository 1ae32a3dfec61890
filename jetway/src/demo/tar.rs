//! A tar archive of one executable file, in the ustar format (POSIX.1-2017, pax): all that an image of ours is made of.

const BLOCK: usize = 512;

/// The header before the file's bytes. `name` has at most 99 bytes.
pub fn header(name: &str, bytes: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{bytes:011o}\0").as_bytes());
    // No date: the same executable makes the same image.
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// What follows the file's bytes: zeros to the block's end, and two blocks that end the archive.
pub fn trailer(bytes: u64) -> Vec<u8> {
    let over = usize::try_from(bytes % BLOCK as u64).unwrap_or(0);
    vec![0; (BLOCK - over) % BLOCK + 2 * BLOCK]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_reads_it() {
        let content = b"#!/bin/sh\n".repeat(60);
        let directory = std::env::temp_dir().join(format!("jetway-tar-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&directory).unwrap();
        let archive = directory.join("a.tar");
        let length = content.len() as u64;
        let whole = [header("jetway", length).as_slice(), &content, &trailer(length)].concat();
        assert_eq!(whole.len() % BLOCK, 0);
        std::fs::write(&archive, whole).unwrap();
        let status =
            std::process::Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&directory).status();
        assert!(status.unwrap().success());
        assert_eq!(std::fs::read(directory.join("jetway")).unwrap(), content);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
