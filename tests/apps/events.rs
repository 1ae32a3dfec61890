//! A page of Server-Sent Events: its stream flows as it comes, keeps the session in use as long as it is open, and no longer.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::harness::browser::Window;
use crate::harness::site::Site;

/// Of the page, four a second: together longer than the session may be idle, three times over.
const TICKS: u32 = 24;

pub async fn used(site: &mut Site, executable: &Value) -> anyhow::Result<()> {
    let request = |user: &str| {
        json!({
            "key": { "name": "events" },
            "user": user,
            "spawn_config": { "executable": executable, "max_idle_seconds": 1, "linger_seconds": 1 },
        })
    };
    let (backend, url) = site.connect(request("ada")).await?;
    let ada = site.open(&url).await?;
    let (_, url) = site.connect(request("bob")).await?;
    let bob = site.open(&url).await?;
    for window in [&ada, &bob] {
        site.shown(window, "document.getElementById('state').textContent === 'connected'").await?;
    }
    // What one says, the other reads, with the name that the connect gave.
    say(site, &ada, "hello").await?;
    site.browser.until(&bob, &format!("{SAID} === 'ada: hello'")).await?;
    say(site, &bob, "and hello to you").await?;
    site.browser.until(&ada, &format!("{SAID} === 'ada: hello|bob: and hello to you'")).await?;
    // Whoever comes back reads it again.
    site.browser.reload(&bob).await?;
    site.browser.until(&bob, &format!("{SAID} === 'ada: hello|bob: and hello to you'")).await?;
    site.browser.until(&bob, &format!("{TICK} > 0")).await?;
    site.picture(&bob, "events").await?;
    // An answer that never ends is use: nothing else is asked meanwhile.
    site.browser.close(bob).await?;
    let before = site.browser.evaluate(&ada, TICK).await?.as_u64().unwrap_or_default();
    site.browser.until(&ada, &format!("{TICK} >= {}", before + u64::from(TICKS))).await?;
    ensure!(site.status(&backend).await? == "ready", "the session ended under an open stream");
    site.browser.close(ada).await?;
    site.until_ended(&backend).await
}

/// The lines on the page.
const SAID: &str = "[...document.querySelectorAll('#said li')].map(line => line.textContent).join('|')";

const TICK: &str = "Number(document.getElementById('tick').textContent)";

async fn say(site: &mut Site, window: &Window, text: &str) -> anyhow::Result<()> {
    site.browser.click(window, "document.querySelector('input')").await?;
    site.browser.type_text(window, text).await?;
    site.browser.enter(window, 0).await
}
