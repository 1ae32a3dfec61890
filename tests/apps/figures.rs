//! What the host form costs a person, as the browser measures it: the first paint beside the path form, and the way from a bookmark
//! of a session that has ended to the page of the next one. What is printed is the median of several, taken in turn.

use std::time::Duration;

use anyhow::Context;
use jetway_protocol::time::UnixMicros;
use serde_json::json;

use crate::bare;
use crate::crossing::Stage;
use crate::hands;
use crate::harness::browser::Browser;
use crate::harness::{engine, eventually};
use crate::place::{Place, Session};
use crate::steps::{ADA, Walker};
use crate::walk::{Form, Walk};

const PAINTS: usize = 11;
const BOOKMARKS: usize = 7;
const PAINTED: &str = "performance.getEntriesByName('first-contentful-paint').length > 0";
/// When it was painted, on the clock of the machine.
const PAINTED_AT: &str =
    "performance.timeOrigin + performance.getEntriesByName('first-contentful-paint')[0].startTime";
const AFTER: &str = "performance.getEntriesByName('first-contentful-paint')[0].startTime";
/// After an interface of this machine went: the browser looks at its network once more.
const SETTLED: Duration = Duration::from_secs(3);

/// The first paint of a page in each form, in turn, each in a browser that knows nothing of it yet.
pub async fn paint(stage: &mut Stage<'_>, walk: &Walk) -> anyhow::Result<()> {
    let host = Session::of(walk, Form::Host, stage.dev, stage.webapp)?;
    let path = Session::of(walk, Form::Path, stage.dev, stage.webapp)?;
    let (mut in_host, mut in_path) = (Vec::new(), Vec::new());
    let profile = stage.browser.new_profile().await?;
    let held = hands::window(stage.browser, &profile).await?;
    stage.browser.navigate(&held, &host.connect(ADA).await?.url).await?;
    stage.browser.until(&held, PAINTED).await?;
    for _ in 0..PAINTS {
        for (session, times) in [(&path, &mut in_path), (&host, &mut in_host)] {
            let way = session.connect(ADA).await?;
            times.push(painted(stage.browser, &way.url).await?);
        }
    }
    stage.browser.close(held).await?;
    let (host, path) = (median(&mut in_host), median(&mut in_path));
    println!(
        "  first paint of {}: host form {host:.1} ms, path form {path:.1} ms: {:.2} x",
        walk.name,
        host / path
    );
    Ok(())
}

async fn painted(browser: &mut Browser, url: &str) -> anyhow::Result<f64> {
    let profile = browser.new_profile().await?;
    let window = hands::window(browser, &profile).await?;
    browser.navigate(&window, url).await?;
    browser.until(&window, &format!("location.href !== 'about:blank' && {PAINTED}")).await?;
    let after = browser.evaluate(&window, AFTER).await?;
    browser.close(window).await?;
    browser.call(None, "Target.disposeBrowserContext", json!({ "browserContextId": profile })).await?;
    after.as_f64().context("a time")
}

/// From a bookmark of a session that has ended, by way of the web app, to the page of a new session.
pub async fn bookmark(stage: &mut Stage<'_>, walk: &Walk) -> anyhow::Result<()> {
    let docker = engine::docker().await?;
    let image = format!("jetway-app-{}:latest", walk.name);
    let session = Session::of(walk, Form::Host, stage.dev, stage.webapp)?;
    let directory = stage.dev.directory.clone();
    let mut walker = Walker::new(stage.browser, Place::Session(session), &directory);
    let sight = walk.first_sight().context("a sight")?;
    walker.enter(ADA).await?;
    walker.see(sight).await?;
    let (mut totals, mut own, mut bare_starts, mut connects) = (vec![], vec![], vec![], vec![]);
    for _ in 0..BOOKMARKS {
        walker.end_session().await?;
        bare_starts.push(bare::first_byte(&docker, &image).await?);
        tokio::time::sleep(SETTLED).await;
        let person = &walker.people[0];
        let window = hands::window(walker.browser, &person.profile).await?;
        let start = UnixMicros::now();
        walker.browser.navigate(&window, &person.bookmark).await?;
        let arrived = format!("location.href === {} && {PAINTED}", json!(person.bookmark));
        walker.browser.until(&window, &arrived).await?;
        let end = walker.browser.evaluate(&window, PAINTED_AT).await?;
        #[expect(clippy::cast_precision_loss, reason = "2^53 microseconds since 1970 are the year 2255")]
        totals.push(end.as_f64().context("a time")? - start.0 as f64 / 1e3);
        let asked = "fetch('/started').then((answer) => answer.json()).then((answer) => answer.milliseconds)";
        own.push(walker.browser.evaluate(&window, asked).await?.as_f64().context("a time")?);
        let session = walker.place.session().context("a session")?;
        connects.push(session.webapp.last_arrival().context("an arrival")?.took.as_secs_f64() * 1e3);
        let backend = running(&session.dev.api, walk).await?;
        walker.people[0].window = Some(window);
        walker.people[0].backend = Some(backend);
    }
    walker.leave_all().await?;
    let [total, own, bare, connect] =
        [totals, own, bare_starts, connects].map(|mut times| median(&mut times));
    println!(
        "  bookmark of an ended session of {} to its page: {total:.0} ms, in it connect {connect:.1} ms\n    \
         the process until it listens: {own:.0} ms; beyond it {:.0} ms\n    \
         its container by bare Docker until it answers: {bare:.0} ms; beyond it {:.0} ms",
        walk.name,
        total - own,
        total - bare,
    );
    Ok(())
}

/// The key's backend that is there now.
async fn running(api: &str, walk: &Walk) -> anyhow::Result<String> {
    let url = format!("{api}/ctrl/backends?state=live&key={}", walk.name);
    eventually("the new session is listed", SETTLED, async || {
        let list: serde_json::Value = reqwest::get(&url).await.ok()?.json().await.ok()?;
        list["backends"][0]["backend_id"].as_str().map(str::to_owned)
    })
    .await
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
