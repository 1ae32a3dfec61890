//! What crosses the border of one window: an application in a frame of another site, and two people in one browser.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::hands;
use crate::harness::browser::{Browser, Window};
use crate::harness::dev::Dev;
use crate::harness::eventually;
use crate::place::Session;
use crate::walk::{Form, Sight, Walk};
use crate::webapp::WebApp;

const FRAME: Duration = Duration::from_secs(20);

/// What a test of this module has.
pub struct Stage<'a> {
    pub browser: &'a mut Browser,
    pub dev: &'a Dev,
    pub webapp: &'a WebApp,
}

/// The chat in a frame of the web app's page, whose site is another than the session's: it works there, its cookie is kept for
/// that site alone, and a page that is not in `allowed_origins` gets nothing.
pub async fn framed(stage: Stage<'_>, chat: &Walk) -> anyhow::Result<()> {
    let session = Session::of(chat, Form::Host, stage.dev, stage.webapp)?.framed();
    let browser = stage.browser;
    let way = session.connect("ada").await?;
    let profile = browser.new_profile().await?;
    let page = framing(&session.webapp.origin(), &way.url)?;
    let window = hands::window(browser, &profile).await?;
    browser.navigate(&window, &page).await?;
    let frame = frame_of(browser, &window, ".localhost").await?;
    let text = |id: &str, text: &str| format!("document.getElementById('{id}')?.textContent === '{text}'");
    browser
        .until_within(FRAME, &frame, &text("transport", "websocket"))
        .await
        .context("the chat in a frame")?;
    browser.until(&frame, &text("me", "ada")).await?;
    let say = "document.querySelector('input').value = 'hello'; document.forms[0].requestSubmit()";
    browser.evaluate(&frame, say).await?;
    browser.until(&frame, &text("said", "ada: hello")).await?;

    let url = reqwest::Url::parse(&way.url)?;
    let host = url.host_str().context("a host")?;
    let cookie = hands::entrance(browser, &profile, host).await?.context("a cookie")?;
    ensure!(cookie["partitionKey"]["topLevelSite"] == "http://127.0.0.1", "{cookie}");
    // So that the same person's own tab has to come in by itself.
    let tab = hands::window(browser, &profile).await?;
    browser.navigate(&tab, &format!("{}/", url.origin().ascii_serialization())).await?;
    browser.until(&tab, "location.port !== '' && document.body?.innerText.includes('Who are you?')").await?;
    browser.close(tab).await?;
    // The page is loaded again: the frame's cookie is there.
    browser.reload(&window).await?;
    let frame = frame_of(browser, &window, ".localhost").await?;
    browser.until_within(FRAME, &frame, &text("transport", "websocket")).await.context("after a reload")?;
    browser.close(window).await?;

    // The same page at another origin is another's.
    let foreign = format!("http://localhost:{}", session.webapp.address.port());
    let window = hands::window(browser, &profile).await?;
    browser.navigate(&window, &framing(&foreign, &way.url)?).await?;
    let frame = frame_of(browser, &window, "").await?;
    let complete = "document.readyState === 'complete' && location.href !== 'about:blank'";
    browser.until_within(FRAME, &frame, complete).await.context("a frame elsewhere is answered")?;
    let shown = browser.evaluate(&frame, "document.getElementById('transport') !== null").await?;
    ensure!(shown == false, "a page that is not allowed shows the chat");
    browser.close(window).await
}

fn framing(origin: &str, source: &str) -> anyhow::Result<String> {
    Ok(reqwest::Url::parse_with_params(&format!("{origin}/frame"), [("src", source)])?.to_string())
}

/// The frame of another site in a window, once it is there. It is a window of its own to the browser.
async fn frame_of(browser: &mut Browser, window: &Window, place: &str) -> anyhow::Result<Window> {
    browser.until(window, "document.querySelector('iframe') !== null").await?;
    let target = eventually("the frame is there", FRAME, async || {
        let targets = browser.call(None, "Target.getTargets", json!({})).await.ok()?;
        let is_frame = |target: &&Value| {
            target["type"] == "iframe" && target["url"].as_str().is_some_and(|url| url.contains(place))
        };
        let found = targets["targetInfos"].as_array()?.iter().find(is_frame)?;
        found["targetId"].as_str().map(str::to_owned)
    })
    .await?;
    browser.attach(&target).await
}

/// Ada's tab and Bob's in one browser, of one key: Bob is asked first, because Ada is in, and then both tabs are Bob's.
pub async fn two_people(stage: Stage<'_>, site: &Walk) -> anyhow::Result<()> {
    let session = Session::of(site, Form::Host, stage.dev, stage.webapp)?;
    let browser = stage.browser;
    let profile = browser.new_profile().await?;
    let me = |name: &str| format!("document.getElementById('me')?.textContent === '{name}'");
    let (ada, bob) = (session.connect("ada").await?, session.connect("bob").await?);
    ensure!(ada.backend == bob.backend, "two sessions for one key");
    let first = hands::window(browser, &profile).await?;
    browser.navigate(&first, &ada.url).await?;
    browser.until(&first, &me("ada")).await?;
    // Ada again: there is nothing to ask.
    let again = hands::window(browser, &profile).await?;
    browser.navigate(&again, &session.connect("ada").await?.url).await?;
    browser.until(&again, &me("ada")).await?;
    browser.close(again).await?;

    let second = hands::window(browser, &profile).await?;
    browser.navigate(&second, &bob.url).await?;
    let asks = "document.querySelector('form[action*=\"/.jetway/confirm\"]') !== null";
    browser.until(&second, asks).await.context("Bob is asked first")?;
    let page = browser.evaluate(&second, "location.href + document.documentElement.outerHTML").await?;
    let (entries, _) = hands::history(browser, &second).await?;
    let addresses: Vec<&Value> = entries.iter().map(|entry| &entry["url"]).collect();
    let seen = json!([page, addresses]).to_string();
    for secret in &bob.secrets {
        ensure!(!seen.contains(secret.as_str()), "the page that asks shows a token: {seen}");
    }
    picture(browser, &second, "two-people").await?;
    browser.evaluate(&first, "window.before = true").await?;
    // Nothing has changed for Ada so far.
    browser.reload(&first).await?;
    browser.until(&first, &format!("window.before === undefined && {}", me("ada"))).await?;
    let button = Sight { selector: Some("form[action*='/.jetway/confirm'] button".to_owned()), text: None };
    hands::click(browser, &second, &button).await?;
    browser.until(&second, &me("bob")).await.context("Bob comes in")?;
    browser.evaluate(&first, "window.before = true").await?;
    browser.reload(&first).await?;
    browser.until(&first, &format!("window.before === undefined && {}", me("bob"))).await?;
    browser.close(first).await?;
    browser.close(second).await
}

async fn picture(browser: &mut Browser, window: &Window, name: &str) -> anyhow::Result<()> {
    let Some(directory) = std::env::var_os("JETWAY_TEST_SCREENSHOTS") else { return Ok(()) };
    std::fs::create_dir_all(&directory)?;
    Ok(std::fs::write(Path::new(&directory).join(format!("{name}.png")), browser.screenshot(window).await?)?)
}
