//! `jetway secrets FILE...`: random secrets into files, each made once. What is there already is never replaced: it is in
//! use. Who may read a file beyond its mode is the directory's business.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use jetway_protocol::secret::SECRET_CHARS_MIN;
use rand::TryRngCore;
use rand::rngs::OsRng;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::output;

const RANDOM_BYTES: usize = 32;
/// Of a file that is there already: enough to see whether it can be a secret.
const LOOK_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub struct SecretsArguments {
    /// Files to make; those that exist stay as they are
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Mode of new files, octal
    #[arg(long, default_value = "0600", value_parser = parse_mode)]
    mode: u32,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &SecretsArguments) -> anyhow::Result<ExitCode> {
    // All are looked at before one is written: what is wrong changes nothing.
    for path in &arguments.files {
        check_existing(path)?;
    }
    let mut done = Vec::new();
    for path in &arguments.files {
        let written = make(path, arguments.mode)?;
        let shown = path.display().to_string();
        if !arguments.json {
            output::line(&format!("{} {}", if written { "wrote" } else { "kept" }, output::shown(&shown)));
        }
        done.push(serde_json::json!({ "file": shown, "written": written }));
    }
    if arguments.json {
        output::json(&serde_json::json!({ "files": done }));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether there is a file; one that cannot be a secret is an error.
fn check_existing(path: &Path) -> anyhow::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut text = Vec::new();
    file.take(LOOK_BYTES_MAX)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let chars = String::from_utf8_lossy(&text).trim().chars().count();
    if chars < SECRET_CHARS_MIN {
        let what = if chars == 0 { "is empty".to_owned() } else { format!("has only {chars} characters") };
        bail!(
            "{} {what}; a secret has {SECRET_CHARS_MIN} or more: delete it to get a new one",
            path.display()
        );
    }
    Ok(true)
}

/// False: it was there already, or somebody else has just made it.
fn make(path: &Path, mode: u32) -> anyhow::Result<bool> {
    if check_existing(path)? {
        return Ok(false);
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let cannot = || format!("cannot write {}", path.display());
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let name = path.file_name().with_context(cannot)?.to_string_lossy();
    let fresh = directory.join(format!(".{name}.{}", random_hex::<8>()?));
    let placed = write(&fresh, &random_hex::<RANDOM_BYTES>()?, mode).and_then(|()| place(&fresh, path));
    if !matches!(placed, Ok(true)) {
        let _absent_where_it_was_never_made = std::fs::remove_file(&fresh);
    }
    let placed = placed.with_context(cannot)?;
    if placed {
        File::open(directory).and_then(|directory| directory.sync_all()).with_context(cannot)?;
    } else {
        check_existing(path)?;
    }
    Ok(placed)
}

fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    // Nobody else reads it before it has the mode that was asked for, whatever the umask is.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{text}\n").as_bytes())?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Gives the file its name unless something has that name: false then.
fn place(fresh: &Path, path: &Path) -> std::io::Result<bool> {
    match renameat_with(CWD, fresh, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // File systems that cannot do that can usually link, which does not replace either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match std::fs::hard_link(fresh, path) {
            Ok(()) => std::fs::remove_file(fresh).map(|()| true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        },
        Err(error) => Err(error.into()),
    }
}

fn random_hex<const BYTES: usize>() -> anyhow::Result<String> {
    let mut bytes = [0; BYTES];
    OsRng.try_fill_bytes(&mut bytes).context("the operating system gives no random numbers")?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o400 != 0);
    mode.ok_or_else(|| "a mode is octal, such as 0600 or 0444, and lets the owner read".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("made-secrets-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.0).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _removed = std::fs::remove_dir_all(&self.0);
        }
    }

    fn arguments(files: Vec<PathBuf>, mode: u32) -> SecretsArguments {
        SecretsArguments { files, mode, json: false }
    }

    #[test]
    fn a_file_is_made_once_with_its_directory_and_mode() {
        let directory = Directory::new("once");
        let (one, two) = (directory.0.join("deep/er/one"), directory.0.join("two"));
        run(&arguments(vec![one.clone(), two.clone()], 0o444)).unwrap();
        let text = std::fs::read_to_string(&one).unwrap();
        let hex = text.strip_suffix('\n').unwrap();
        assert!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
        assert_ne!(text, std::fs::read_to_string(&two).unwrap());
        assert_eq!(std::fs::metadata(&one).unwrap().permissions().mode() & 0o7777, 0o444);
        run(&arguments(vec![one.clone()], 0o600)).unwrap();
        assert_eq!(std::fs::read_to_string(&one).unwrap(), text);
        assert_eq!(std::fs::metadata(&one).unwrap().permissions().mode() & 0o7777, 0o444, "left as it was");
        assert_eq!(directory.names(), ["deep", "two"], "no temporary file is left");
    }

    #[test]
    fn what_cannot_be_a_secret_is_an_error_and_nothing_is_written() {
        let directory = Directory::new("wrong");
        for (name, content, expect) in [
            ("empty", "", "is empty"),
            ("blank", " \n\n", "is empty"),
            ("short", "hunter2\n", "has only 7 characters"),
        ] {
            let bad = directory.0.join(name);
            std::fs::write(&bad, content).unwrap();
            let said = format!(
                "{:#}",
                run(&arguments(vec![directory.0.join("new"), bad.clone()], 0o600)).unwrap_err()
            );
            assert!(said.contains(expect) && said.contains("delete it"), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
            assert_eq!(std::fs::read_to_string(&bad).unwrap(), content);
        }
        let said = format!("{:#}", run(&arguments(vec![directory.0.clone()], 0o600)).unwrap_err());
        assert!(said.contains("directory"), "{said}");
        assert_eq!(directory.names(), ["blank", "empty", "short"]);
    }

    #[test]
    fn of_many_at_once_one_makes_it() {
        let directory = Directory::new("race");
        let path = directory.0.join("secret");
        let made = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| make(&path, 0o600).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|made| *made).count()
        });
        assert_eq!(made, 1);
        assert_eq!(directory.names(), ["secret"]);
    }

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(parse_mode("0444"), Ok(0o444));
        assert_eq!(parse_mode("600"), Ok(0o600));
        for wrong in ["", "0800", "rw", "7777", "0", "0222", "-1"] {
            assert!(parse_mode(wrong).is_err(), "{wrong:?}");
        }
    }
}
