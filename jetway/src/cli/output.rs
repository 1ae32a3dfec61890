//! What the verbs print: lines and columns for people, whole JSON for programs.
//!
//! A reader that has seen enough (`jetway ls | head -1`) ends the command quietly; names that came from outside are
//! shown without their control characters, so that nobody's key can speak to the terminal.

use std::io::{ErrorKind, Write};

use serde_json::Value;

/// One line on stdout.
pub fn line(text: &str) {
    bytes(text.as_bytes());
    bytes(b"\n");
}

/// As it is, at once.
pub fn bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush())
        && error.kind() == ErrorKind::BrokenPipe
    {
        std::process::exit(0);
    }
}

pub fn json(value: &Value) {
    line(&format!("{value:#}"));
}

/// Without control characters.
pub fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A text that may be absent, or a dash.
pub fn word(text: Option<&str>) -> String {
    shown(text.unwrap_or("-"))
}

/// Columns as wide as their widest cell, two spaces apart.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    row(&widths, head.iter().copied());
    for cells in rows {
        row(&widths, cells.iter().map(String::as_str));
    }
}

fn row<'a>(widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    let mut text = String::new();
    for (width, cell) in widths.iter().zip(cells) {
        text.push_str(&format!("{cell:<width$}  "));
    }
    line(text.trim_end());
}

/// Seconds as people say them: 42s, 7m, 3h, 2d.
pub fn age(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{}s", seconds.max(0)),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_key_cannot_speak_to_the_terminal() {
        assert_eq!(super::shown("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
