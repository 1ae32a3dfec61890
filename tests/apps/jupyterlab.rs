//! JupyterLab: a cell is run, the page is loaded again, and the next cell finds the same kernel with what the first has left in it.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::IDLE_SECONDS;
use crate::harness::browser::Window;
use crate::harness::site::Site;

/// For a cell that was clicked on to have the focus.
const FOCUS: Duration = Duration::from_secs(2);
const CLICKS_MAX: u32 = 5;
const MOMENTS: Duration = Duration::from_secs(3);
const KERNEL_IS_IDLE: &str =
    "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'";

pub async fn used(site: &mut Site, executable: &Value) -> anyhow::Result<()> {
    let mut executable = executable.clone();
    executable["resource_limits"] = json!({ "memory_limit_bytes": 1_u64 << 30 });
    let request = json!({
        "key": { "name": "jupyterlab" },
        "spawn_config": {
            "executable": executable, "use_static_token": true, "max_idle_seconds": IDLE_SECONDS, "linger_seconds": 2,
        },
    });
    let (backend, url) = site.connect(request).await?;
    let window = site.open(&format!("{url}lab")).await?;
    let card = "document.querySelector('.jp-LauncherCard[data-category=Notebook]')";
    site.shown(&window, &format!("{card} !== null")).await?;
    site.browser.click(&window, card).await?;
    site.shown(&window, KERNEL_IS_IDLE).await?;
    // JupyterLab forgets a cell that is run in a kernel's first moments, as it does without anything in between.
    tokio::time::sleep(MOMENTS).await;
    site.shown(&window, KERNEL_IS_IDLE).await?;
    run_last_cell(site, &window, "seven = 7; print(seven * 6)").await?;
    site.browser.until(&window, &printed("42")).await.with_context(|| troubles(site))?;

    site.browser.click(&window, "document.querySelector('[data-command=\"docmanager:save\"]')").await?;
    // It asks for a name the first time.
    site.browser.click(&window, "document.querySelector('.jp-Dialog .jp-mod-accept')").await?;
    site.browser.until(&window, "document.querySelector('.jp-mod-dirty') === null").await?;
    site.browser.evaluate(&window, "window.before = true").await?;
    site.browser.reload(&window).await?;
    site.browser.until(&window, "window.before === undefined").await?;
    site.shown(&window, KERNEL_IS_IDLE).await?;
    // JupyterLab forgets a cell that is run in a kernel's first moments, as it does without anything in between.
    tokio::time::sleep(MOMENTS).await;
    site.shown(&window, KERNEL_IS_IDLE).await?;
    run_last_cell(site, &window, "print(seven * 11)").await?;
    site.browser.until(&window, &printed("77")).await.with_context(|| troubles(site))?;
    site.picture(&window, "jupyterlab").await?;
    site.browser.close(window).await?;
    site.until_ended(&backend).await
}

/// Types into the last cell, and Shift+Enter.
async fn run_last_cell(site: &mut Site, window: &Window, code: &str) -> anyhow::Result<()> {
    let cell = "[...document.querySelectorAll('.jp-Notebook .jp-CodeCell .cm-content')].at(-1)";
    site.browser.until(window, &format!("{cell} !== undefined")).await?;
    let (has_focus, mut clicks) = (format!("document.activeElement === {cell}"), 0);
    loop {
        site.browser.click(window, cell).await?;
        clicks += 1;
        match site.browser.until_within(FOCUS, window, &has_focus).await {
            Ok(()) => break,
            Err(error) if clicks == CLICKS_MAX => return Err(error),
            // JupyterLab gives the focus to something else when it has opened it.
            Err(_) => {}
        }
    }
    site.browser.type_text(window, code).await?;
    site.browser.until(window, &format!("{cell}.innerText.includes({})", json!(code))).await?;
    site.browser.enter(window, 8).await
}

/// What would explain a cell that nobody has run.
fn troubles(site: &Site) -> String {
    let browser = &site.browser;
    format!(
        "after {} breaks of the network and {} closed WebSockets",
        browser.network_changes, browser.sockets_closed
    )
}

fn printed(text: &str) -> String {
    format!(
        "[...document.querySelectorAll('.jp-OutputArea-output')].some(output => output.innerText.trim() === '{text}')"
    )
}
