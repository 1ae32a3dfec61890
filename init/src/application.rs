//! What to execute: arguments, environment and the places to look for the program, all laid out as C strings before
//! the fork, because nothing may be allocated after it; and what to tell a human when it cannot be executed.
//! The execution itself is `exec`.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use jetway_protocol::init::{Ahead, EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, Session};

use crate::exec::{Failure, Stage};

/// Where a program is looked for when neither image nor session has a `PATH`: as Docker's.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub type Environment = BTreeMap<OsString, OsString>;

/// Everything that an execution needs.
#[derive(Debug)]
pub struct Plan {
    /// Paths to try, in order.
    pub candidates: Vec<CString>,
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    pub directory: Option<CString>,
}

/// Why there is no application. `Display` is a sentence for whoever made the image.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    #[error("neither the image nor the session says what to run: no entrypoint and no command")]
    NoCommand,
    #[error("{0} has a zero byte in it")]
    ZeroByte(String),
    #[error("the environment variable {0:?} has an empty name or one with = in it")]
    BadName(String),
    #[error("{program:?} was not found on the PATH ({path})")]
    NotOnPath { program: String, path: String },
    #[error("{program:?} does not exist in the image")]
    NotFound { program: String },
    #[error("{0:?} exists, but the interpreter or loader that it asks for does not")]
    NoInterpreter(String),
    #[error("permission denied to execute {0:?}: it must be a file that this user may read and execute")]
    Permission(String),
    #[error(
        "exec format error: {0:?} is made for another machine, or is a script without #! in its first line"
    )]
    Format(String),
    #[error("the arguments and environment of {0:?} are larger than the kernel takes (128 KiB for each one)")]
    TooLarge(String),
    #[error("the working directory {directory:?} cannot be entered: {source}")]
    Directory { directory: String, source: io::Error },
    #[error("{program:?} cannot be executed: {source}")]
    Other { program: String, source: io::Error },
    #[error(
        "this runtime has a kernel of its own, where the lease cannot be kept: say on_isolation \"keep\""
    )]
    OwnKernel,
    #[error("the application runs already, so init cannot become it")]
    RunsAlready,
    #[error("no process could be made for it: {0}")]
    NoProcess(#[source] io::Error),
}

impl CannotStart {
    /// Init's exit status, as a shell's.
    pub fn status(&self) -> i32 {
        match self {
            Self::NoCommand | Self::NotOnPath { .. } | Self::NotFound { .. } | Self::NoInterpreter(_) => {
                EXIT_NOT_FOUND
            }
            _ => EXIT_CANNOT_EXECUTE,
        }
    }
}

/// What a message says of the execution; what it leaves out is the container's.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    env: &'a BTreeMap<String, String>,
    argv: Option<&'a [String]>,
    working_dir: Option<&'a str>,
}

impl<'a> From<&'a Session> for Wish<'a> {
    fn from(session: &'a Session) -> Self {
        let Session { env, argv, working_dir, .. } = session;
        Self { env, argv: argv.as_deref(), working_dir: working_dir.as_deref() }
    }
}

impl<'a> From<&'a Ahead> for Wish<'a> {
    fn from(ahead: &'a Ahead) -> Self {
        Self { env: &ahead.env, argv: None, working_dir: None }
    }
}

/// The container's own environment under the one that is wished.
pub fn merged(container: impl IntoIterator<Item = (OsString, OsString)>, wish: Wish<'_>) -> Environment {
    let mut environment: Environment = container.into_iter().collect();
    environment.extend(wish.env.iter().map(|(name, value)| (name.into(), value.into())));
    environment
}

impl Plan {
    pub fn new(wish: Wish<'_>, image: &[OsString], environment: &Environment) -> Result<Self, CannotStart> {
        let arguments: Vec<OsString> = match wish.argv {
            Some(argv) => argv.iter().map(OsString::from).collect(),
            None => image.to_vec(),
        };
        let program =
            arguments.first().filter(|program| !program.is_empty()).ok_or(CannotStart::NoCommand)?;
        let candidates = candidates(program, path_of(environment));
        let candidates =
            candidates.into_iter().map(|path| c_string(path, "the PATH")).collect::<Result<_, _>>()?;
        let directory = wish.working_dir.filter(|directory| !directory.is_empty());
        Ok(Self {
            candidates,
            arguments: arguments.into_iter().map(|a| c_string(a, "an argument")).collect::<Result<_, _>>()?,
            environment: environment.iter().map(assignment).collect::<Result<_, _>>()?,
            directory: directory.map(|path| c_string(path.into(), "the working directory")).transpose()?,
        })
    }

    /// What a failed execution means. Looks at the files again: "not found" is also what the kernel says of a
    /// program whose interpreter is missing.
    pub fn explain(&self, failure: Failure, environment: &Environment) -> CannotStart {
        let source = io::Error::from_raw_os_error(failure.errno);
        if failure.stage == Stage::Directory {
            let directory = self.directory.as_ref().map_or_else(String::new, text);
            return CannotStart::Directory { directory, source };
        }
        let program = self.arguments.first().map_or_else(String::new, text);
        let candidate = self.candidates.get(failure.candidate).map_or_else(|| program.clone(), text);
        match failure.errno {
            libc::ENOENT | libc::ENOTDIR => {
                let found = self.candidates.iter().find(|path| self.exists(path));
                match found {
                    Some(path) => CannotStart::NoInterpreter(text(path)),
                    None if program.contains('/') => CannotStart::NotFound { program },
                    None => {
                        let path = path_of(environment).to_string_lossy().into_owned();
                        CannotStart::NotOnPath { program, path }
                    }
                }
            }
            libc::EACCES | libc::EPERM => CannotStart::Permission(candidate),
            libc::ENOEXEC => CannotStart::Format(candidate),
            libc::E2BIG => CannotStart::TooLarge(candidate),
            _ => CannotStart::Other { program: candidate, source },
        }
    }

    fn exists(&self, path: &CString) -> bool {
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        match &self.directory {
            Some(directory) => Path::new(OsStr::from_bytes(directory.as_bytes())).join(path).exists(),
            None => path.exists(),
        }
    }
}

fn path_of(environment: &Environment) -> &OsStr {
    environment.get(OsStr::new("PATH")).map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str)
}

/// A name with a slash is a path; any other is looked for on the `PATH`, whose empty parts mean the working
/// directory (POSIX.1-2024, Base Definitions §8.3).
fn candidates(program: &OsStr, path: &OsStr) -> Vec<OsString> {
    if program.as_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    let in_directory = |directory: &[u8]| {
        let directory = if directory.is_empty() { b"." } else { directory };
        OsString::from_vec([directory, b"/", program.as_bytes()].concat())
    };
    path.as_bytes().split(|byte| *byte == b':').map(in_directory).collect()
}

fn assignment((name, value): (&OsString, &OsString)) -> Result<CString, CannotStart> {
    let shown = name.to_string_lossy();
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return Err(CannotStart::BadName(shown.into_owned()));
    }
    let joined = OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat());
    c_string(joined, &format!("the environment variable {shown:?}"))
}

fn c_string(text: OsString, what: &str) -> Result<CString, CannotStart> {
    CString::new(text.into_vec()).map_err(|_| CannotStart::ZeroByte(what.to_owned()))
}

fn text(string: &CString) -> String {
    string.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(json: &str) -> Session {
        let text = format!(r#"{{"backend":"a","fencing_token":1,"port":null,{json}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn words(strings: &[CString]) -> Vec<&str> {
        strings.iter().map(|string| string.to_str().unwrap()).collect()
    }

    #[test]
    fn the_session_overlays_the_container() {
        let session = session(r#""env":{"PATH":"/s::/t","NEW":"1"},"working_dir":"/w""#);
        let environment = merged(pairs(&[("PATH", "/c"), ("HOME", "/h")]), (&session).into());
        let plan = Plan::new((&session).into(), &["app".into(), "-x".into()], &environment).unwrap();
        assert_eq!(words(&plan.environment), ["HOME=/h", "NEW=1", "PATH=/s::/t"]);
        assert_eq!(words(&plan.candidates), ["/s/app", "./app", "/t/app"]);
        assert_eq!(words(&plan.arguments), ["app", "-x"]);
        assert_eq!(plan.directory.unwrap().to_str(), Ok("/w"));
    }

    #[test]
    fn a_sessions_command_replaces_the_images_and_a_slash_means_a_path() {
        let session = session(r#""env":{},"argv":["bin/run"]"#);
        let plan = Plan::new((&session).into(), &["app".into()], &Environment::new()).unwrap();
        assert_eq!(words(&plan.candidates), ["bin/run"]);
    }

    #[test]
    fn without_a_path_the_usual_one() {
        let plan = Plan::new((&session(r#""env":{}"#)).into(), &["app".into()], &Environment::new()).unwrap();
        assert_eq!(plan.candidates.len(), 6);
    }

    #[test]
    fn what_cannot_be_executed_is_refused_before_the_fork() {
        let check = |json: &str, sentence: &str| {
            let session = session(json);
            let refused = Plan::new((&session).into(), &[], &merged([], (&session).into())).unwrap_err();
            assert!(refused.to_string().contains(sentence), "{refused}");
        };
        check(r#""env":{}"#, "neither the image nor the session");
        check(r#""env":{},"argv":[]"#, "neither the image nor the session");
        check(r#""env":{},"argv":["a\u0000b"]"#, "zero byte");
        check(r#""env":{"A=B":"1"},"argv":["a"]"#, "\"A=B\"");
        check(r#""env":{"A":"\u0000"},"argv":["a"]"#, "\"A\" has a zero byte");
    }

    #[test]
    fn failures_are_sentences_with_a_shells_status() {
        let session = session(r#""env":{"PATH":"/nowhere"},"argv":["app"],"working_dir":"/""#);
        let environment = merged([], (&session).into());
        let plan = Plan::new((&session).into(), &[], &environment).unwrap();
        let check = |stage, errno, sentence: &str, status| {
            let told = plan.explain(Failure { stage, errno, candidate: 0 }, &environment);
            assert!(told.to_string().contains(sentence), "{told}");
            assert_eq!(told.status(), status);
        };
        check(Stage::Execute, libc::ENOENT, "\"app\" was not found on the PATH (/nowhere)", 127);
        check(Stage::Execute, libc::EACCES, "permission denied to execute \"/nowhere/app\"", 126);
        check(Stage::Execute, libc::ENOEXEC, "exec format error", 126);
        check(Stage::Execute, libc::E2BIG, "larger than the kernel takes", 126);
        check(Stage::Directory, libc::ENOENT, "working directory \"/\"", 126);
    }
}
