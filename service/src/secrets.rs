//! Secrets from the environment or from files: the installation's, the API's key, the database's password. A file may be
//! one that Docker, Compose or an orchestrator mounts. No error shows a secret.

use std::io::Read;
use std::path::Path;

use jetway_protocol::secret::{Secret, SecretTooShort};

/// Bytes of a secret, at most: whoever names /dev/zero must not be waited for.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(
        "no secret: set JETWAY_SECRET or JETWAY_SECRET_FILE (jetway secrets FILE makes such a file, openssl rand -hex 32 such a text)"
    )]
    Missing,
    #[error("{0} is set and empty; give it a value, or do not set it")]
    EmptyText(&'static str),
    #[error("cannot read {variable} {path}: {reason}")]
    Unreadable { variable: String, path: String, reason: String },
    #[error("{variable} {path} is empty; put the secret in, or delete it and let jetway secrets make one")]
    EmptyFile { variable: String, path: String },
    #[error("{0} and {0}_FILE are both set and differ; keep one of them")]
    Differ(&'static str),
    #[error("{from}: {source}")]
    TooShort { from: String, source: SecretTooShort },
}

/// What may be given as a text or as a file that holds it. `variable` is the text's environment variable; the file's has
/// `_FILE` at its end.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub variable: &'static str,
    pub text: Option<&'a str>,
    pub file: Option<&'a Path>,
}

impl Source<'_> {
    /// Without white space around it; `None` where neither is given. An empty text beside a file counts as not given.
    pub fn read(&self) -> Result<Option<String>, SecretError> {
        let text = self.text.map(str::trim);
        let Some(path) = self.file else {
            return match text {
                Some("") => Err(SecretError::EmptyText(self.variable)),
                text => Ok(text.map(str::to_owned)),
            };
        };
        let content = self.content(path)?;
        match text {
            None | Some("") => Ok(Some(content)),
            Some(text) if text == content => Ok(Some(content)),
            Some(_) => Err(SecretError::Differ(self.variable)),
        }
    }

    fn content(&self, path: &Path) -> Result<String, SecretError> {
        let variable = format!("{}_FILE", self.variable);
        let shown = path.display().to_string();
        let mut content = String::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(SECRET_BYTES_MAX).read_to_string(&mut content));
        if let Err(error) = read {
            return Err(SecretError::Unreadable { variable, path: shown, reason: reason(&error) });
        }
        match content.trim() {
            "" => Err(SecretError::EmptyFile { variable, path: shown }),
            content => Ok(content.to_owned()),
        }
    }
}

/// The installation's secret, from its text or from a file.
pub fn installation_secret(text: Option<&str>, file: Option<&Path>) -> Result<Secret, SecretError> {
    let source = Source { variable: "JETWAY_SECRET", text, file };
    let secret = source.read()?.ok_or(SecretError::Missing)?;
    Secret::new(&secret).map_err(|source| SecretError::TooShort {
        from: file
            .map_or("JETWAY_SECRET".to_owned(), |path| format!("JETWAY_SECRET_FILE {}", path.display())),
        source,
    })
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        // What Docker makes where the file to mount is missing on the host.
        std::io::ErrorKind::IsADirectory => {
            "it is a directory; was the file missing when it was mounted?".to_owned()
        }
        std::io::ErrorKind::InvalidData => "it is not text".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("secrets-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, content: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, content).unwrap();
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _removed = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn each_way_in_which_a_secret_can_be_wrong_is_one_line_that_does_not_show_it() {
        let directory = Directory::new("wrong");
        let good = "g".repeat(32);
        let good_file = directory.file("good", format!("{good}\n").as_bytes());
        let empty = directory.file("empty", b"");
        let blank = directory.file("blank", b" \n\t\n");
        let short = directory.file("short", b"hunter2\n");
        let binary = directory.file("binary", &[0xff; 40]);
        let absent = directory.0.join("absent");
        let cases: [(Option<&str>, Option<&Path>, &str); 11] = [
            (None, None, "no secret"),
            (Some(""), None, "JETWAY_SECRET is set and empty"),
            (Some("  \n"), None, "JETWAY_SECRET is set and empty"),
            (Some("hunter2"), None, "JETWAY_SECRET: the secret has 7 characters; it needs at least 32"),
            (None, Some(&empty), "is empty"),
            (None, Some(&blank), "is empty"),
            (None, Some(&short), "short: the secret has 7 characters; it needs at least 32"),
            (None, Some(&binary), "it is not text"),
            (None, Some(&absent), "there is no such file"),
            (None, Some(&directory.0), "it is a directory"),
            (Some("another, and long enough, secret"), Some(&good_file), "both set and differ"),
        ];
        for (text, file, expect) in cases {
            let said = installation_secret(text, file).unwrap_err().to_string();
            assert!(said.contains(expect), "{said}");
            assert!(!said.contains('\n') && !said.contains("hunter2") && !said.contains("gggg"), "{said}");
        }
    }

    #[test]
    fn a_text_a_file_or_both_alike() {
        let directory = Directory::new("good");
        let text = "g".repeat(32);
        let file = directory.file("good", format!(" {text}\n\n").as_bytes());
        for (text, file) in [
            (Some(text.as_str()), None),
            (None, Some(file.as_path())),
            (Some(text.as_str()), Some(file.as_path())),
            (Some(""), Some(file.as_path())),
        ] {
            assert!(installation_secret(text, file).is_ok());
        }
        let none = Source { variable: "JETWAY_API_KEY", text: None, file: None };
        assert!(none.read().unwrap().is_none());
    }

    #[test]
    fn a_file_without_an_end_is_not_waited_for() {
        let source = Source { variable: "JETWAY_SECRET", text: None, file: Some(Path::new("/dev/zero")) };
        let read = source.read().unwrap().unwrap_or_default();
        assert_eq!(read.len() as u64, SECRET_BYTES_MAX);
    }
}
