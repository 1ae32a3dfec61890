//! A shared text over y-websocket: two editors who see each other's letters, and a third who comes after the session was started
//! again, when nobody has the text any more but the session's directory.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::IDLE_SECONDS;
use crate::harness::browser::Window;
use crate::harness::site::Site;

/// Below the drone's `--mount-base`, and the key's name.
const NAME: &str = "yjs";

pub async fn used(site: &mut Site, executable: &Value) -> anyhow::Result<()> {
    // The drone would make it root's; the application is not root.
    let directory = site.dev.directory.join("mounts").join(NAME);
    std::fs::create_dir_all(&directory)?;
    std::fs::set_permissions(&directory, Permissions::from_mode(0o777))?;
    let mut executable = executable.clone();
    executable["mount"] = json!(true);
    let request = json!({
        "key": { "name": NAME },
        "spawn_config": { "executable": executable, "max_idle_seconds": IDLE_SECONDS, "linger_seconds": 2 },
    });

    let (first, ada) = edit(site, &request, "ada").await?;
    let (same, bob) = edit(site, &request, "bob").await?;
    ensure!(first == same, "two sessions for one key");
    for window in [&ada, &bob] {
        site.browser.until(window, "document.getElementById('here').textContent === 'ada, bob'").await?;
    }
    write(site, &ada, "Ada was here.").await?;
    site.browser.until(&bob, &reads("Ada was here.")).await?;
    site.browser
        .evaluate(&bob, "getSelection().selectAllChildren(document.querySelector('.ql-editor'))")
        .await?;
    site.browser.evaluate(&bob, "getSelection().collapseToEnd()").await?;
    site.browser.type_text(&bob, " So was Bob.").await?;
    site.browser.until(&ada, &reads("Ada was here. So was Bob.")).await?;
    site.browser.until(&ada, "document.querySelector('.ql-cursor-name')?.textContent === 'bob'").await?;
    site.picture(&ada, "yjs").await?;

    // Both go, and so does the session.
    site.browser.close(ada).await?;
    site.browser.close(bob).await?;
    site.until_ended(&first).await?;
    let (second, carol) = edit(site, &request, "carol").await?;
    ensure!(first != second, "the session was not started again");
    site.browser.until(&carol, &reads("Ada was here. So was Bob.")).await?;
    site.picture(&carol, "yjs-again").await?;
    site.browser.close(carol).await?;
    site.until_ended(&second).await
}

/// A new window of the key's session, in which the document has arrived.
async fn edit(site: &mut Site, request: &Value, name: &str) -> anyhow::Result<(String, Window)> {
    let mut request = request.clone();
    request["user"] = json!(name);
    let (backend, url) = site.connect(request).await?;
    let window = site.open(&format!("{url}?name={name}")).await?;
    site.shown(&window, "document.getElementById('state').textContent === 'synced'").await?;
    Ok((backend, window))
}

async fn write(site: &mut Site, window: &Window, text: &str) -> anyhow::Result<()> {
    site.browser.click(window, "document.querySelector('.ql-editor')").await?;
    site.browser.type_text(window, text).await
}

fn reads(text: &str) -> String {
    format!("document.querySelector('.ql-editor').innerText.replace(/\\s+/g, ' ').trim() === '{text}'")
}
