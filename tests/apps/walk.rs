//! A walk: what a person does with one application, as a file that a person can read. This module reads such files;
//! `steps` does what they say.
//!
//! A line is a comment (`#`), a word about the session (`at`, `memory`, `mount`, `idle`, `also`, `tells`), or a step. What a step
//! looks for is a selector of CSS, a text in quotes, or both: an element that has the text. Elements count that can be seen.

use anyhow::{Context, bail, ensure};

pub struct Walk {
    pub name: String,
    /// The comment at its top: what is done.
    pub about: String,
    /// Where the person goes in the host form. In the path form it is the URL itself.
    pub at: String,
    pub memory_mebibytes: u64,
    /// The session has a directory that outlives it.
    pub mount: bool,
    pub idle_seconds: u32,
    pub forms: Vec<Form>,
    /// Where the application shows what it was asked with.
    pub tells: Option<String>,
    pub steps: Vec<Step>,
}

/// How the session's URL is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Host,
    Path,
    /// In the path, the same for all, and not removed from it.
    StaticToken,
}

impl Form {
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Path => "path",
            Self::StaticToken => "static",
        }
    }
}

pub struct Step {
    pub line: usize,
    pub text: String,
    pub act: Act,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    pub selector: Option<String>,
    pub text: Option<String>,
}

#[derive(Debug, PartialEq)]
pub enum Act {
    /// It is there, or will be soon.
    See(Sight),
    Gone(Sight),
    /// The element has the name of the person whose window it is, where Jetway tells names.
    Me(Sight),
    Click(Sight),
    Type(String),
    /// All at once, as from the clipboard.
    Paste(String),
    Press(String),
    /// A script that becomes true.
    Until(String),
    Do(String),
    /// A command of a shell, in the session's container.
    Inside(String),
    Pause(u32),
    Reload,
    Back,
    Forward,
    /// An address of the application's, typed by the person.
    Go(String),
    Phone,
    Resize(u32, u32),
    /// A file of this name and text, into the field.
    Upload {
        field: Sight,
        name: String,
        text: String,
    },
    /// The next file that is downloaded has this text.
    Downloaded(String),
    /// The steps that follow are another person's, who gets a URL of their own first.
    As(String),
    /// The person closes the window.
    Leave,
    /// All windows are closed, and the session ends.
    Ended,
    /// The person opens the application's address again, without a new URL.
    Bookmark,
    Picture(String),
}

const MEMORY_MEBIBYTES: u64 = 512;
/// For sessions that a page in trouble must not lose.
const IDLE_SECONDS: u32 = 15;

impl Walk {
    pub fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let mut walk = Self {
            name: name.to_owned(),
            about: String::new(),
            at: "/".to_owned(),
            memory_mebibytes: MEMORY_MEBIBYTES,
            mount: false,
            idle_seconds: IDLE_SECONDS,
            forms: vec![Form::Host],
            tells: None,
            steps: Vec::new(),
        };
        let comment: Vec<&str> =
            text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
        walk.about = comment.join(" ");
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            walk.read(line, word, rest.trim()).with_context(|| format!("{name}.walk:{line}: {text}"))?;
        }
        ensure!(walk.first_sight().is_some(), "{name}.walk sees nothing");
        Ok(walk)
    }

    /// What tells that the application's page is there.
    pub fn first_sight(&self) -> Option<&Sight> {
        self.steps.iter().find_map(|step| match &step.act {
            Act::See(sight) => Some(sight),
            _ => None,
        })
    }

    fn read(&mut self, line: usize, word: &str, rest: &str) -> anyhow::Result<()> {
        match word {
            "at" => self.at = rest.to_owned(),
            "memory" => self.memory_mebibytes = rest.parse()?,
            "mount" => self.mount = true,
            "idle" => self.idle_seconds = rest.parse()?,
            "tells" => self.tells = Some(rest.to_owned()),
            "also" => self.forms.push(match rest {
                "path" => Form::Path,
                "static" => Form::StaticToken,
                _ => bail!("no such form"),
            }),
            _ => self.steps.push(Step { line, text: format!("{word} {rest}"), act: act(word, rest)? }),
        }
        Ok(())
    }
}

fn act(word: &str, rest: &str) -> anyhow::Result<Act> {
    Ok(match word {
        "see" => Act::See(sight(rest)?),
        "gone" => Act::Gone(sight(rest)?),
        "me" => Act::Me(sight(rest)?),
        "click" => Act::Click(sight(rest)?),
        "type" => Act::Type(quoted(rest)?),
        "paste" => Act::Paste(quoted(rest)?),
        "press" => Act::Press(rest.to_owned()),
        "until" => Act::Until(rest.to_owned()),
        "do" => Act::Do(rest.to_owned()),
        "inside" => Act::Inside(rest.to_owned()),
        "pause" => Act::Pause(rest.parse()?),
        "reload" => Act::Reload,
        "back" => Act::Back,
        "forward" => Act::Forward,
        "go" => Act::Go(rest.to_owned()),
        "phone" => Act::Phone,
        "resize" => {
            let (width, height) = rest.split_once(' ').context("a width and a height")?;
            Act::Resize(width.parse()?, height.parse()?)
        }
        "upload" => {
            let (field, file) = rest.split_once(" file ").context("a field and a file")?;
            let (name, text) = file.split_once(' ').context("a name and a text")?;
            Act::Upload { field: sight(field)?, name: name.to_owned(), text: quoted(text)? }
        }
        "downloaded" => Act::Downloaded(quoted(rest)?),
        "as" => Act::As(rest.to_owned()),
        "leave" => Act::Leave,
        "ended" => Act::Ended,
        "bookmark" => Act::Bookmark,
        "picture" => Act::Picture(rest.to_owned()),
        _ => bail!("no such step"),
    })
}

fn quoted(text: &str) -> anyhow::Result<String> {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    Ok(inner.context("a text in quotes")?.to_owned())
}

fn sight(text: &str) -> anyhow::Result<Sight> {
    ensure!(!text.is_empty(), "of what?");
    if text.starts_with('"') {
        return Ok(Sight { selector: None, text: Some(quoted(text)?) });
    }
    Ok(match text.split_once(" \"").filter(|(_, text)| text.ends_with('"')) {
        Some((selector, text)) => {
            Sight { selector: Some(selector.to_owned()), text: text.strip_suffix('"').map(str::to_owned) }
        }
        None => Sight { selector: Some(text.to_owned()), text: None },
    })
}
