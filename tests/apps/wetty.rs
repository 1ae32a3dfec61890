//! wetty: a command is typed into the terminal and answered, and the program in it learns of the window's new size.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::IDLE_SECONDS;
use crate::harness::site::Site;

/// What the terminal shows, line by line.
const LINES: &str = "(() => { const b = wetty_term.buffer.active; return [...Array(b.length).keys()]\
                     .map(line => b.getLine(line).translateToString(true).trimEnd()); })()";
const SIZE: &str = "`${wetty_term.rows} ${wetty_term.cols}`";

pub async fn used(site: &mut Site, executable: &Value) -> anyhow::Result<()> {
    let request = json!({
        "key": { "name": "wetty" },
        "spawn_config": {
            "executable": executable, "use_static_token": true, "max_idle_seconds": IDLE_SECONDS, "linger_seconds": 2,
        },
    });
    let (backend, url) = site.connect(request).await?;
    let window = site.open(&url).await?;
    site.shown(&window, &format!("{LINES}.some(line => line.endsWith('$'))")).await?;
    site.browser.click(&window, "document.querySelector('.xterm-screen')").await?;
    site.browser.type_text(&window, "echo six times seven is $((6 * 7))").await?;
    site.browser.enter(&window, 0).await?;
    site.browser.until(&window, &format!("{LINES}.includes('six times seven is 42')")).await?;

    let before = site.browser.evaluate(&window, SIZE).await?;
    site.browser.resize(&window, 700, 400).await?;
    site.browser.until(&window, &format!("{SIZE} !== {before}")).await?;
    // Asked until it is so: the news of the size goes through the session.
    site.browser
        .type_text(&window, &format!("until [ \"$(stty size)\" != {before} ]; do :; done; stty size"))
        .await?;
    site.browser.enter(&window, 0).await?;
    site.browser.until(&window, &format!("{LINES}.includes({SIZE})")).await?;
    site.picture(&window, "wetty").await?;
    ensure!(site.status(&backend).await? == "ready", "the session ended under an open terminal");
    site.browser.close(window).await?;
    site.until_ended(&backend).await
}
