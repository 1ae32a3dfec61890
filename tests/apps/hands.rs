//! A person's eyes and hands in a browser window: finding what can be seen, keys, files, the history.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::browser::{Browser, Window};
use crate::harness::eventually;
use crate::walk::Sight;

/// A file is downloaded within it.
const DOWNLOAD: Duration = Duration::from_secs(20);
/// Of windows, and so of their pictures.
pub const SIZE: (u32, u32) = (900, 560);
const PHONE: (u32, u32) = (390, 844);

/// The first element that can be seen, by selector and text; exact texts and inner elements before others. Open shadow roots are
/// looked into.
pub const FIND: &str = r"((selector, text) => {
    const plain = (text) => (text ?? '').replace(/\s+/g, ' ').trim();
    const roots = [document];
    for (const root of roots)
        for (const element of root.querySelectorAll('*')) if (element.shadowRoot) roots.push(element.shadowRoot);
    const found = roots.flatMap((root) => [...root.querySelectorAll(selector)]).filter((element) =>
        element.checkVisibility({ visibilityProperty: true }) && element.getBoundingClientRect().width > 0);
    if (text === null) return found[0] ?? null;
    const says = (element) => plain(`${element.innerText ?? element.textContent} ${element.value ?? ''}`);
    const having = found.filter((element) => says(element).includes(text));
    return having.find((element) => says(element) === text)
        ?? having.find((element) => !having.some((other) => other !== element && element.contains(other))) ?? null;
})";

/// All that can be read in the window.
pub const TEXT: &str = r"(() => {
    const roots = [document];
    for (const root of roots)
        for (const element of root.querySelectorAll('*')) if (element.shadowRoot) roots.push(element.shadowRoot);
    const parts = roots.flatMap((root) => root === document ? [document.body] : [...root.children]);
    return parts.map((part) => part?.innerText ?? '').join(' ').replace(/\s+/g, ' ');
})()";

/// The script that gives the element, or null.
pub fn element(sight: &Sight) -> String {
    let selector = sight.selector.as_deref().unwrap_or("body *");
    format!("{FIND}({}, {})", json!(selector), json!(sight.text))
}

/// The script that is true where it can be seen.
pub fn is_seen(sight: &Sight) -> String {
    match (&sight.selector, &sight.text) {
        (None, Some(text)) => format!("{TEXT}.includes({})", json!(text)),
        _ => format!("{} !== null", element(sight)),
    }
}

/// A new window of a profile, of the usual size, that tells of its troubles.
pub async fn window(browser: &mut Browser, profile: &str) -> anyhow::Result<Window> {
    let window = browser.open_in(profile, "about:blank").await?;
    browser.resize(&window, SIZE.0, SIZE.1).await?;
    for domain in ["Network.enable", "Runtime.enable", "Page.enable"] {
        browser.call(Some(&window.session), domain, json!({})).await?;
    }
    Ok(window)
}

pub async fn click(browser: &mut Browser, window: &Window, sight: &Sight) -> anyhow::Result<()> {
    browser.until(window, &is_seen(sight)).await?;
    let found = element(sight);
    browser.evaluate(window, &format!("{found}?.scrollIntoView({{ block: 'nearest' }})")).await?;
    browser.click(window, &found).await
}

/// A key by its name, perhaps with others held: `Shift+Enter`, `Control+a`.
pub async fn press(browser: &mut Browser, window: &Window, keys: &str) -> anyhow::Result<()> {
    let (held, name) = keys.rsplit_once('+').unwrap_or(("", keys));
    let modifiers = held.split('+').filter(|key| !key.is_empty()).try_fold(0, |sum, key| {
        Ok::<_, anyhow::Error>(
            sum | match key {
                "Alt" => 1,
                "Control" => 2,
                "Shift" => 8,
                _ => anyhow::bail!("no key {key} to hold"),
            },
        )
    })?;
    let (code, number, text) = match name {
        "Enter" => ("Enter".to_owned(), 13, Some("\r")),
        "Tab" => ("Tab".to_owned(), 9, None),
        "Escape" => ("Escape".to_owned(), 27, None),
        "Backspace" => ("Backspace".to_owned(), 8, None),
        "Delete" => ("Delete".to_owned(), 46, None),
        "Home" => ("Home".to_owned(), 36, None),
        "End" => ("End".to_owned(), 35, None),
        "F1" => ("F1".to_owned(), 112, None),
        "ArrowUp" => ("ArrowUp".to_owned(), 38, None),
        "ArrowDown" => ("ArrowDown".to_owned(), 40, None),
        _ => {
            let letter = name.to_ascii_uppercase();
            ensure!(letter.len() == 1, "no key {name}");
            (format!("Key{letter}"), u32::from(letter.as_bytes()[0]), None)
        }
    };
    let mut key =
        json!({ "key": name, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers });
    for kind in ["rawKeyDown", "keyUp"] {
        key["type"] = json!(kind);
        if let Some(text) = text.filter(|_| kind == "rawKeyDown") {
            key["type"] = json!("keyDown");
            key["text"] = json!(text);
        }
        browser.call(Some(&window.session), "Input.dispatchKeyEvent", key.clone()).await?;
        key.as_object_mut().context("an object")?.remove("text");
    }
    Ok(())
}

/// Letters with the keys that they are on, as programs want them that pass keys on.
pub async fn type_text(browser: &mut Browser, window: &Window, text: &str) -> anyhow::Result<()> {
    for letter in text.chars() {
        let code = match letter {
            'a'..='z' | 'A'..='Z' => format!("Key{}", letter.to_ascii_uppercase()),
            '0'..='9' => format!("Digit{letter}"),
            ' ' => "Space".to_owned(),
            '-' => "Minus".to_owned(),
            _ => String::new(),
        };
        let number = if letter.is_ascii_alphanumeric() { u32::from(letter.to_ascii_uppercase()) } else { 0 };
        let mut key = json!({ "key": letter, "code": code, "windowsVirtualKeyCode": number });
        for kind in ["keyDown", "keyUp"] {
            key["type"] = json!(kind);
            key["text"] = if kind == "keyDown" { json!(letter) } else { json!("") };
            browser.call(Some(&window.session), "Input.dispatchKeyEvent", key.clone()).await?;
        }
    }
    Ok(())
}

pub async fn paste(browser: &mut Browser, window: &Window, text: &str) -> anyhow::Result<()> {
    browser.call(Some(&window.session), "Input.insertText", json!({ "text": text })).await.map(drop)
}

pub async fn phone(browser: &mut Browser, window: &Window) -> anyhow::Result<()> {
    let size = json!({ "width": PHONE.0, "height": PHONE.1, "deviceScaleFactor": 2, "mobile": true });
    browser.call(Some(&window.session), "Emulation.setDeviceMetricsOverride", size).await.map(drop)
}

/// From the network alone, not from the browser's cache.
pub async fn hard_reload(browser: &mut Browser, window: &Window) -> anyhow::Result<()> {
    let parameters = json!({ "ignoreCache": true });
    browser.call(Some(&window.session), "Page.reload", parameters).await.map(drop)
}

/// The addresses of a window's history, and which of them it shows.
pub async fn history(browser: &mut Browser, window: &Window) -> anyhow::Result<(Vec<Value>, usize)> {
    let history = browser.call(Some(&window.session), "Page.getNavigationHistory", json!({})).await?;
    let at = usize::try_from(history["currentIndex"].as_u64().context("currentIndex")?)?;
    Ok((history["entries"].as_array().context("entries")?.clone(), at))
}

/// A person's step back or forward.
pub async fn step_in_history(browser: &mut Browser, window: &Window, back: bool) -> anyhow::Result<()> {
    let (entries, at) = history(browser, window).await?;
    let to = if back { at.checked_sub(1) } else { at.checked_add(1) };
    let entry = to.and_then(|to| entries.get(to)).context("there is no such page in the history")?;
    let parameters = json!({ "entryId": entry["id"] });
    browser.call(Some(&window.session), "Page.navigateToHistoryEntry", parameters).await.map(drop)
}

/// Chooses a file in a field for files, which need not be visible.
pub async fn upload(
    browser: &mut Browser,
    window: &Window,
    field: &Sight,
    file: &Path,
) -> anyhow::Result<()> {
    let selector = json!(field.selector.as_deref().context("a field for files has no text")?);
    let found = format!("document.querySelector({selector})");
    browser.until(window, &format!("{found} !== null")).await?;
    let object =
        browser.call(Some(&window.session), "Runtime.evaluate", json!({ "expression": found })).await?;
    let parameters = json!({ "files": [file], "objectId": object["result"]["objectId"] });
    browser.call(Some(&window.session), "DOM.setFileInputFiles", parameters).await.map(drop)
}

/// Lets a profile's downloads fall into a directory.
pub async fn downloads_to(browser: &mut Browser, profile: &str, directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    let parameters = json!({ "behavior": "allow", "browserContextId": profile, "downloadPath": directory });
    browser.call(None, "Browser.setDownloadBehavior", parameters).await.map(drop)
}

/// The text of the file that is downloaded into the directory, which is empty afterwards.
pub async fn downloaded(directory: &Path) -> anyhow::Result<String> {
    eventually("a file is downloaded", DOWNLOAD, async || {
        let file = std::fs::read_dir(directory).ok()?.filter_map(Result::ok).map(|entry| entry.path());
        let path = file.into_iter().find(|path| path.extension().is_none_or(|end| end != "crdownload"))?;
        let text = std::fs::read_to_string(&path).ok()?;
        std::fs::remove_file(&path).ok()?;
        Some(text)
    })
    .await
}

/// The cookie that Jetway gave a profile for a host.
pub async fn entrance(browser: &mut Browser, profile: &str, host: &str) -> anyhow::Result<Option<Value>> {
    let cookies = browser.call(None, "Storage.getCookies", json!({ "browserContextId": profile })).await?;
    let own = |cookie: &&Value| cookie["name"] == jetway_protocol::host::COOKIE && cookie["domain"] == host;
    Ok(cookies["cookies"].as_array().context("cookies")?.iter().find(own).cloned())
}
