//! An address that stays: a bookmark, or a reload, of a session that has ended leads by way of the web app to the key's
//! next one, at the page that was wanted. A user who was taken out is told so there. Nothing of it shows a token.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::web_app::WebApp;
use super::{Entry, enter, no_token, no_token_seen, request, seen, shows, verified, with_cluster};
use crate::harness::Stack;
use crate::harness::browser::{Browser, Window};

const SOON: Duration = Duration::from_secs(20);
/// A path that must survive two queries.
const WANTED: &str = "/page?note=a%26b%2Bc&x=%2F%2Fevil.example%23";

#[test]
fn a_bookmark_leads_to_the_next_session() {
    with_cluster(async |stack, web_app, browser| {
        let env = json!({ "FILES": "{}", "SECOND_PORT": "9000" });
        let mut asked = request(stack, "notes", "ada", &json!({}));
        asked["spawn_config"]["executable"]["env"] = env;
        asked["spawn_config"]["executable"]["ports"] = json!({ "second": 9000 });
        web_app.offers(&asked)?;
        asked["return_url"] = json!(WebApp::url("notes"));
        let first = Entry::connect(stack, &asked).await?;
        let window = browser.open("about:blank").await?;
        enter(browser, &window, &first.to("/page")).await?;
        browser.navigate(&window, &format!("{}{WANTED}", first.origin)).await?;
        shows(browser, &window, WANTED).await?;
        ensure!(web_app.visits().is_empty(), "{:?}", web_app.visits());

        let second = returns_after_the_end(stack, web_app, browser, &window, &first).await?;
        the_port_returns_too(stack, web_app, browser, &second).await?;
        is_revoked(stack, web_app, browser, &window, &first.origin).await?;
        nothing_leaks(web_app, browser, &window).await
    });
}

async fn ended(stack: &Stack, backend: &str) -> anyhow::Result<()> {
    stack.post(&format!("/ctrl/b/{backend}/hard-terminate"), &Value::Null).await?;
    stack.ended(backend, SOON).await.map(drop)
}

/// The key's present backend.
async fn live(stack: &Stack, key: &str) -> anyhow::Result<String> {
    let list = stack.get(&format!("/ctrl/backends?state=live&key={key}")).await?;
    let id = list["backends"][0]["backend_id"].as_str();
    Ok(id.with_context(|| list.to_string())?.to_owned())
}

/// The bookmark, and then a reload. Returns the backend that runs after both.
async fn returns_after_the_end(
    stack: &Stack,
    web_app: &WebApp,
    browser: &mut Browser,
    window: &Window,
    first: &Entry,
) -> anyhow::Result<String> {
    ended(stack, &first.backend).await?;
    // A page's own requests are told, and not sent away.
    let status = super::again("fetch('/headers').then((answer) => answer.status)");
    ensure!(browser.evaluate(window, &status).await? == 410, "a fetch after the end");
    let begun = Instant::now();
    browser.navigate(window, &format!("{}{WANTED}", first.origin)).await?;
    shows(browser, window, WANTED).await.context("the bookmark")?;
    let took = begun.elapsed().as_millis();
    let returned = web_app.last_return("notes")?;
    ensure!(returned.field("jetway_path").as_deref() == Some(WANTED), "{returned:?}");
    ensure!(returned.field("jetway_reason").as_deref() == Some("ended"), "{returned:?}");
    let second = live(stack, "notes").await?;
    ensure!(second != first.backend, "it has ended");
    ensure!(verified(browser, window, "backend").await?.as_ref() == Some(&second));
    let view = stack.get(&format!("/ctrl/backends/{second}")).await?;
    let stages = view["timeline"].as_array().into_iter().flatten();
    let start: f64 = stages.filter_map(|stage| stage["length_ms"].as_f64()).sum();
    println!("figure: bookmark to page: {took} ms, the start's own stages {start:.0} ms of them");
    no_token(browser, window).await?;

    ended(stack, &second).await?;
    browser.reload(window).await?;
    const RELOADED: &str = "fetch('/headers').then((answer) => answer.status === 200, () => false)";
    browser.until(window, RELOADED).await.context("the reload")?;
    shows(browser, window, WANTED).await.context("the reload")?;
    no_token(browser, window).await?;
    live(stack, "notes").await
}

/// A named port has a host of its own, which leads back the same way.
async fn the_port_returns_too(
    stack: &Stack,
    web_app: &WebApp,
    browser: &mut Browser,
    backend: &str,
) -> anyhow::Result<()> {
    const SHOWN: &str = "document.body?.innerText === 'the second port'";
    let mut asked = request(stack, "notes", "ada", &json!({}));
    asked["return_url"] = json!(WebApp::url("notes"));
    let again = Entry::connect(stack, &asked).await?;
    ensure!(again.backend == backend, "another session");
    let label = again.answer["subdomain"].as_str().context("a label")?;
    let host = format!("second--{label}.sessions.test");
    let window = browser.open(again.answer["urls"][&host].as_str().context(host.clone())?).await?;
    browser.until(&window, SHOWN).await.context("the port's own URL")?;
    ensure!(browser.evaluate(&window, "location.origin").await? == format!("https://{host}"));
    no_token(browser, &window).await?;
    ended(stack, backend).await?;
    browser.navigate(&window, &format!("https://{host}/deep/page")).await?;
    let back = format!("{SHOWN} && location.href === 'https://{host}/deep/page'");
    browser.until(&window, &back).await.context("after the end")?;
    let returned = web_app.last_return("notes")?;
    ensure!(returned.field("jetway_port").as_deref() == Some("second"), "{returned:?}");
    browser.close(window).await
}

/// Who may not be there any more is told by the web app, and not sent in circles.
async fn is_revoked(
    stack: &Stack,
    web_app: &WebApp,
    browser: &mut Browser,
    window: &Window,
    origin: &str,
) -> anyhow::Result<()> {
    browser.navigate(window, &format!("{origin}/page")).await?;
    shows(browser, window, "/page").await?;
    let backend = live(stack, "notes").await?;
    let (status, said) = stack.post("/ctrl/revoke", &json!({ "backend_id": backend, "user": "ada" })).await?;
    ensure!(status == 200, "{said}");
    let before = web_app.visits().len();
    browser.navigate(window, &format!("{origin}/page?late")).await?;
    browser.until(window, "document.title === 'not allowed'").await?;
    let returned = web_app.last_return("notes")?;
    ensure!(returned.field("jetway_reason").as_deref() == Some("revoked"), "{returned:?}");
    ensure!(web_app.visits().len() == before + 1, "in circles: {:?}", web_app.visits());
    // As soon as the app lets her in again, she is.
    browser.navigate(window, &WebApp::url("notes")).await?;
    browser.until(window, "document.body?.innerText === 'hello'").await
}

/// Of all that the browser has sent to anybody.
async fn nothing_leaks(web_app: &WebApp, browser: &mut Browser, window: &Window) -> anyhow::Result<()> {
    let link = "const link = Object.assign(document.createElement('a'), { href: 'http://app.test/after', referrerPolicy: 'unsafe-url' }); \
                document.body.append(link); link.click()";
    no_token_seen(&seen(browser, window).await?)?;
    browser.evaluate_clicked(window, link).await?;
    browser.until(window, "document.title === 'elsewhere'").await?;
    no_token(browser, window).await?;
    let visits = web_app.visits();
    let bad = visits.iter().find(|visit| visit.path.contains("token=") || visit.referer.contains("token="));
    ensure!(bad.is_none(), "the web app was shown {bad:?}");
    Ok(())
}
