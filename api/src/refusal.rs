//! Why a request is refused before anything is looked up: a code, and a message that names the
//! field.

use std::fmt;

use jetway_protocol::error::Code;

/// A 4xx of the public API. The controller adds an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
}

pub type Checked<T> = Result<T, Refusal>;

impl Refusal {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A request that is not of the documented shape.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// Input that goes into a message: cut, and without control characters.
pub fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(60).flat_map(char::escape_default).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    format!("\"{short}\"")
}

/// A number between two others, both included.
pub fn number(what: &str, given: Option<i64>, min: i64, max: i64) -> Checked<Option<i64>> {
    match given {
        Some(n) if !(min..=max).contains(&n) => {
            Err(Refusal::invalid(format!("{what} is {n}; it must be between {min} and {max}")))
        }
        given => Ok(given),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_shown_harmlessly() {
        assert_eq!(shown("a\u{1b}[31m"), "\"a\\u{1b}[31m\"");
        assert_eq!(shown(&"x".repeat(100)).chars().count(), 63);
    }
}
