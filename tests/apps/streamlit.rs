//! Streamlit: a button and a text field, whose news comes over its WebSocket; after a reload it begins anew.

use serde_json::{Value, json};

use crate::IDLE_SECONDS;
use crate::harness::site::Site;

pub async fn used(site: &mut Site, executable: &Value) -> anyhow::Result<()> {
    let request = json!({
        "key": { "name": "streamlit" },
        "spawn_config": { "executable": executable, "max_idle_seconds": IDLE_SECONDS, "linger_seconds": 2 },
    });
    let (backend, url) = site.connect(request).await?;
    let window = site.open(&url).await?;
    site.shown(&window, &says("Counted 0 times")).await?;
    let button =
        "[...document.querySelectorAll('button')].find(button => button.innerText.trim() === 'Count')";
    for count in 1..=2 {
        site.browser.click(&window, button).await?;
        site.browser.until(&window, &says(&format!("Counted {count} times"))).await?;
    }
    site.browser.click(&window, "document.querySelector('input[type=text]')").await?;
    site.browser.type_text(&window, "Ada").await?;
    site.browser.enter(&window, 0).await?;
    site.browser.until(&window, &says("Hello, Ada!")).await?;
    site.browser.until(&window, "document.querySelector('canvas, svg.marks') !== null").await?;
    site.picture(&window, "streamlit").await?;
    site.browser.reload(&window).await?;
    site.shown(&window, &says("Counted 0 times")).await?;
    site.browser.close(window).await?;
    site.until_ended(&backend).await
}

fn says(text: &str) -> String {
    format!("document.body.innerText.includes('{text}')")
}
