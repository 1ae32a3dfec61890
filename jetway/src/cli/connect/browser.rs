//! Opens a URL in this machine's browser, by whatever this system has for that.

use std::process::{Command, Stdio};

use anyhow::bail;

/// `BROWSER` first, as elsewhere.
pub fn open(url: &str) -> anyhow::Result<()> {
    let chosen = std::env::var("BROWSER").ok().filter(|browser| !browser.is_empty());
    let known = ["xdg-open", "open", "wslview", "sensible-browser"].map(str::to_owned);
    for program in chosen.into_iter().chain(known) {
        let mut command = Command::new(program);
        command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It goes on by itself: a browser may live for as long as its windows.
        if command.spawn().is_ok() {
            return Ok(());
        }
    }
    bail!("no browser was found: set BROWSER to one, or open the URL above yourself")
}
