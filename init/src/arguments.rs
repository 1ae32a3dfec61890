//! The command line: `jetway-init [--socket PATH] [--lease DIRECTORY] [--] entrypoint args…`, or `jetway-init --sandbox [FILE]`. What the
//! command means is `application`'s business.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jetway_protocol::init::{LEASE_DIR, SOCKET_PATH, SOCKET_PATH_BYTES_MAX};

pub const USAGE: &str =
    "usage: jetway-init [--socket PATH] [--lease DIRECTORY] [--] [ENTRYPOINT [ARGUMENT]...]
       jetway-init --sandbox [FILE]";

/// What this process is to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    Session(Arguments),
    /// For as long as the file is there.
    Sandbox(Option<PathBuf>),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    pub socket: PathBuf,
    /// The directory with the drone's deadline.
    pub lease: PathBuf,
    /// The image's entrypoint and command; empty where the image has none.
    pub command: Vec<OsString>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    #[error("{0} needs a path")]
    NoPath(&'static str),
    #[error("the socket's path must have 1 to {SOCKET_PATH_BYTES_MAX} bytes, this one has {0}")]
    PathLength(usize),
    #[error("--sandbox takes one file at most, and nothing else")]
    NotAlone,
    #[error("unknown option {0:?}; put -- before an entrypoint that starts with -")]
    UnknownOption(OsString),
}

/// Options end at the first word that is none, so an entrypoint's own options are never taken for ours.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Task, Misuse> {
    let mut words = words.into_iter().peekable();
    if words.next_if(|word| word == "--sandbox").is_some() {
        let wanted = words.next().map(PathBuf::from);
        return if words.next().is_none() { Ok(Task::Sandbox(wanted)) } else { Err(Misuse::NotAlone) };
    }
    let (mut socket, mut lease) = (PathBuf::from(SOCKET_PATH), PathBuf::from(LEASE_DIR));
    while let Some(option) = words.next_if(|word| word.as_bytes().starts_with(b"-")) {
        match option.as_bytes() {
            b"--" => break,
            b"--socket" => socket = checked(words.next().ok_or(Misuse::NoPath("--socket"))?.as_ref())?,
            b"--lease" => lease = words.next().ok_or(Misuse::NoPath("--lease"))?.into(),
            bytes => match bytes.strip_prefix(b"--socket=") {
                Some(path) => socket = checked(std::ffi::OsStr::from_bytes(path).as_ref())?,
                None => return Err(Misuse::UnknownOption(option)),
            },
        }
    }
    Ok(Task::Session(Arguments { socket, lease, command: words.collect() }))
}

fn checked(path: &Path) -> Result<PathBuf, Misuse> {
    match path.as_os_str().len() {
        1..=SOCKET_PATH_BYTES_MAX => Ok(path.to_owned()),
        length => Err(Misuse::PathLength(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<(String, Vec<String>), Misuse> {
        let Task::Session(arguments) = parse(words.iter().map(OsString::from))? else { panic!("{words:?}") };
        let command = arguments.command.iter().map(|word| word.to_str().unwrap().to_owned()).collect();
        Ok((arguments.socket.to_str().unwrap().to_owned(), command))
    }

    #[test]
    fn options_come_first_and_the_rest_is_the_command() {
        let check = |given: &[&str], socket: &str, command: &[&str]| {
            let (got_socket, got_command) = parsed(given).unwrap();
            assert_eq!(
                (got_socket.as_str(), got_command),
                (socket, command.iter().map(|w| w.to_string()).collect())
            );
        };
        check(&[], SOCKET_PATH, &[]);
        check(&["sh", "-c", "x"], SOCKET_PATH, &["sh", "-c", "x"]);
        check(&["--socket", "/s", "app", "--socket", "y"], "/s", &["app", "--socket", "y"]);
        check(&["--socket=/s", "--", "-app", "--"], "/s", &["-app", "--"]);
        check(&["app", "--"], SOCKET_PATH, &["app", "--"]);
        check(&["--", "--sandbox"], SOCKET_PATH, &["--sandbox"]);
        assert_eq!(parse(["--sandbox".into()]), Ok(Task::Sandbox(None)));
        assert_eq!(parse(["--sandbox".into(), "/wanted".into()]), Ok(Task::Sandbox(Some("/wanted".into()))));
    }

    #[test]
    fn misuse_is_named() {
        assert_eq!(parsed(&["--socket"]), Err(Misuse::NoPath("--socket")));
        assert_eq!(parsed(&["--lease"]), Err(Misuse::NoPath("--lease")));
        assert_eq!(parsed(&["--socket", ""]), Err(Misuse::PathLength(0)));
        assert_eq!(parsed(&["--socket", &"a".repeat(108)]), Err(Misuse::PathLength(108)));
        assert_eq!(parse(["--sandbox".into(), "app".into(), "x".into()]), Err(Misuse::NotAlone));
        assert_eq!(parsed(&["--socket=/s", "--sandbox"]), Err(Misuse::UnknownOption("--sandbox".into())));
        assert_eq!(parsed(&["-x", "app"]), Err(Misuse::UnknownOption("-x".into())));
    }
}
