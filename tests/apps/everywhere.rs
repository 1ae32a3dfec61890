//! What holds for every application in the host form, whatever a walk did: another person is let in by a URL of their own and is
//! somebody else, a stranger is sent to the web app, and no token is where the application or a reader of the screen could find it.

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::hands;
use crate::steps::{ADA, Walker};
use crate::walk::Walk;
use crate::webapp::ASKS;

const BOB: &str = "bob";

/// All that a script of the application can come by, and what the window shows of its address.
const REACH: &str = r"(async () => {
    const kept = [];
    for (const name of await caches.keys()) {
        for (const request of await (await caches.open(name)).keys()) kept.push(request.url);
    }
    const workers = await navigator.serviceWorker.getRegistrations();
    return JSON.stringify([
        location.href, document.URL, document.baseURI, document.referrer, document.cookie, window.name, history.state,
        performance.getEntries().map((entry) => entry.name), navigation.entries().map((entry) => entry.url),
        { ...localStorage }, { ...sessionStorage }, kept, workers.map((worker) => [worker.scope, worker.active?.scriptURL]),
        document.documentElement.outerHTML,
    ]);
})()";

pub async fn checked(walker: &mut Walker<'_>, walk: &Walk) -> anyhow::Result<()> {
    let sight = walk.first_sight().context("a sight")?;
    if walker.people.iter().all(|person| person.name != BOB) {
        walker.enter(BOB).await?;
        walker.see(sight).await.with_context(|| format!("a second person\n{}", walker.troubles()))?;
    }
    let secrets = entrances(walker).await?;
    for person in 0..walker.people.len() {
        no_secret_is_in_reach(walker, person, &secrets, walk.tells.as_deref()).await?;
    }
    a_stranger_is_sent_to_the_web_app(walker).await
}

/// Each person has a cookie of their own. All that nobody may see.
async fn entrances(walker: &mut Walker<'_>) -> anyhow::Result<Vec<String>> {
    let (mut secrets, mut cookies) = (Vec::new(), Vec::new());
    for person in &walker.people {
        secrets.extend(person.secrets.clone());
        let url = reqwest::Url::parse(&person.bookmark)?;
        let host = url.host_str().context("a host")?;
        let cookie = hands::entrance(walker.browser, &person.profile, host).await?;
        let cookie = cookie.with_context(|| format!("{} has no cookie for {host}", person.name))?;
        ensure!(cookie["httpOnly"] == true && cookie["secure"] == true, "{cookie}");
        ensure!(cookie["partitionKey"].is_object(), "the cookie is not partitioned: {cookie}");
        let value = cookie["value"].as_str().context("a value")?.to_owned();
        ensure!(!cookies.contains(&value), "two people have one cookie");
        cookies.push(value);
    }
    secrets.extend(cookies);
    ensure!(secrets.iter().all(|secret| secret.len() > 20), "a token is short: {secrets:?}");
    Ok(secrets)
}

async fn no_secret_is_in_reach(
    walker: &mut Walker<'_>,
    person: usize,
    secrets: &[String],
    tells: Option<&str>,
) -> anyhow::Result<()> {
    let person = &walker.people[person];
    let Some(window) = &person.window else { return Ok(()) };
    let reach = walker.browser.evaluate(window, REACH).await?;
    let mut seen = vec![("the application's reach", reach.as_str().context("text")?.to_owned())];
    let (entries, _) = hands::history(walker.browser, window).await?;
    let addresses: Vec<&Value> = entries.iter().map(|entry| &entry["url"]).collect();
    seen.push(("the history", serde_json::to_string(&addresses)?));
    if let Some(path) = tells {
        let asked = format!("fetch('{path}').then((answer) => answer.text())");
        let requests = walker.browser.evaluate(window, &asked).await?;
        let requests = requests.as_str().context("text")?.to_owned();
        ensure!(requests.contains("x-verified-username"), "the application tells nothing: {requests}");
        ensure!(
            !requests.contains(jetway_protocol::host::COOKIE),
            "the application saw the cookie: {requests}"
        );
        seen.push(("a request to the application", requests));
    }
    for (place, text) in &seen {
        for secret in secrets {
            ensure!(!text.contains(secret.as_str()), "{}: a token is in {place}: {text}", person.name);
        }
        ensure!(!text.contains("/.jetway/enter"), "{}: an entering URL is in {place}: {text}", person.name);
    }
    Ok(())
}

async fn a_stranger_is_sent_to_the_web_app(walker: &mut Walker<'_>) -> anyhow::Result<()> {
    let ada = walker.people.iter().find(|person| person.name == ADA).context("ada")?;
    let address = ada.bookmark.clone();
    let profile = walker.browser.new_profile().await?;
    let window = hands::window(walker.browser, &profile).await?;
    walker.browser.navigate(&window, &address).await?;
    let asked = format!("document.body?.innerText.includes('{ASKS}')");
    walker.browser.until(&window, &asked).await.context("a stranger is sent to the web app")?;
    walker.browser.close(window).await?;
    let session = walker.place.session().context("a session")?;
    let arrival = session.webapp.last_arrival().context("an arrival")?;
    let path = &address[address.find("//").context("an address")? + 2..];
    let path = path[path.find('/').context("a path")?..].split('#').next().unwrap_or_default();
    ensure!(
        arrival.path == path && arrival.reason == "no_session",
        "{address} came to the web app as {arrival:?}"
    );
    Ok(())
}
