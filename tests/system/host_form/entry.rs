//! Entering: who is let in as whom. A person who is in already is asked before a link makes them another, no page makes
//! them another unasked, and leaving is for good.

use anyhow::{Context, ensure};
use serde_json::json;

use super::web_app::{self, WebApp};
use super::{Entry, enter, no_token, no_token_seen, request, seen, shows, verified, with_cluster};
use crate::harness::browser::{Browser, Window};

/// How a page tries to let its visitor in under another name, without leaving: by a request, and by a frame.
const PLANTS: [&str; 2] = [
    "(url) => [fetch(url, blind), fetch(url, { ...blind, method: 'POST' }), element('img', { src: url }), element('script', { src: url })]",
    "(url) => [element('iframe', { src: url })]",
];

const PLANTED: &str = "async (url, plant) => {
    await Promise.race([Promise.allSettled(plant(url)), new Promise((done) => setTimeout(done, 3000))]);
    return 'tried';
}";

const MEANS: &str = "const blind = { mode: 'no-cors', credentials: 'include' };
    const element = (kind, more) => new Promise((done) => {
        document.body.append(Object.assign(document.createElement(kind), more, { onload: done, onerror: done }));
    });";

#[test]
fn nobody_becomes_another_user_unasked() {
    with_cluster(async |stack, web_app, browser| {
        let asked = |user: &str| request(stack, "shared", user, &json!({}));
        web_app.offers(&asked("ada"))?;
        let request_of = |user: &str| {
            let mut request = asked(user);
            request["return_url"] = json!(WebApp::url("shared"));
            request
        };
        let ada = Entry::connect(stack, &request_of("ada")).await?;
        let mallory = Entry::connect(stack, &request_of("mallory")).await?;
        ensure!(ada.origin == mallory.origin, "one key, two hosts");

        let window = browser.open("about:blank").await?;
        enter(browser, &window, &ada.to("/page")).await?;
        no_token(browser, &window).await?;
        // A second URL of her own asks nothing.
        let again = Entry::connect(stack, &request_of("ada")).await?;
        browser.navigate(&window, &again.to("/page?two")).await?;
        shows(browser, &window, "/page?two").await?;

        is_asked(browser, &window, &mallory).await?;
        planted(stack, browser, &mallory).await?;
        leaves(browser, &window, &ada.origin, web_app).await?;
        Ok(())
    });
}

/// The link of another user's: a question, and no token where a page of the session's could find it.
async fn is_asked(browser: &mut Browser, window: &Window, mallory: &Entry) -> anyhow::Result<()> {
    const ASKED: &str =
        "location.pathname.startsWith('/.jetway/') && document.querySelector('form button') !== null";
    let other = browser.open(&format!("{}/page?other", mallory.origin)).await?;
    shows(browser, &other, "/page?other").await?;
    browser.navigate(window, &mallory.to("/page?three")).await?;
    browser.until(window, ASKED).await.context("is there a question?")?;
    no_token(browser, window).await?;
    browser.click(window, "document.querySelector('a')").await?;
    shows(browser, window, "/page?three").await.context("she stays")?;
    ensure!(verified(browser, window, "username").await?.as_deref() == Some("ada"), "who is it?");
    browser.navigate(window, &mallory.to("/page?three")).await?;
    browser.until(window, ASKED).await.context("is there a second question?")?;
    ensure!(verified(browser, &other, "username").await?.as_deref() == Some("ada"), "mallory's unasked");
    browser.click(window, "document.querySelector('form button')").await?;
    shows(browser, window, "/page?three").await?;
    ensure!(verified(browser, window, "username").await?.as_deref() == Some("mallory"), "who is it now?");
    no_token(browser, window).await?;
    no_token_seen(&seen(browser, window).await?)?;
    browser.close(other).await
}

/// Somebody who has never entered here is on another session's page, or another site's, which knows a good URL.
async fn planted(
    stack: &crate::harness::Stack,
    browser: &mut Browser,
    mallory: &Entry,
) -> anyhow::Result<()> {
    let sibling = Entry::connect(stack, &request(stack, "sibling", "eve", &json!({}))).await?;
    let eve = browser.open_as_another("about:blank").await?;
    let pages = [sibling.to("/page"), format!("http://{}/", web_app::HOST)];
    for (page, plant) in pages.iter().flat_map(|page| PLANTS.map(|plant| (page, plant))) {
        browser.navigate(&eve, page).await?;
        let shown =
            "['it ran', 'elsewhere'].includes(document.title) && !location.pathname.startsWith('/.jetway')";
        browser.until(&eve, shown).await?;
        let script =
            format!("(async () => {{ {MEANS} return ({PLANTED})({}, {plant}); }})()", json!(mallory.url));
        browser.evaluate(&eve, &script).await?;
        // Her own visit is nobody's: the web app lets her in as whom it knows.
        browser.navigate(&eve, &format!("{}/page?visit", mallory.origin)).await?;
        shows(browser, &eve, "/page?visit").await.with_context(|| format!("after {plant} on {page}"))?;
        let user = verified(browser, &eve, "username").await?;
        ensure!(user.as_deref() == Some("ada"), "after {plant} on {page} she is {user:?}");
        browser.evaluate(&eve, "fetch('/.jetway/leave', { method: 'POST' }).then(() => 'left')").await?;
    }
    browser.close(eve).await
}

/// Leaving takes the cookie away; the next visit begins at the web app.
async fn leaves(
    browser: &mut Browser,
    window: &Window,
    origin: &str,
    web_app: &WebApp,
) -> anyhow::Result<()> {
    let before = web_app.visits().len();
    browser.evaluate(window, "fetch('/.jetway/leave', { method: 'POST' }).then(() => 'left')").await?;
    let status = super::again("fetch('/headers').then((answer) => answer.status)");
    let status = browser.evaluate(window, &status).await?;
    ensure!(status.as_u64().is_some_and(|status| (400..500).contains(&status)), "after leaving: {status}");
    browser.navigate(window, &format!("{origin}/page?back")).await?;
    shows(browser, window, "/page?back").await?;
    let visits = web_app.visits();
    ensure!(visits.len() == before + 1, "{visits:?}");
    let last = web_app.last_return("shared")?;
    ensure!(last.field("jetway_reason").as_deref() == Some("no_session"), "{last:?}");
    ensure!(last.field("jetway_path").as_deref() == Some("/page?back"), "{last:?}");
    Ok(())
}
