//! `jetway dev` as a newcomer meets it: one process, the demo in two windows of a real browser, Ctrl-C.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::browser::Browser;
use crate::harness::dev::{Dev, directory, run};
use crate::harness::{Session, engine, eventually};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn two_windows_of_the_demo_see_each_other_and_the_last_one_ends_the_session() {
    run(async {
        let directory = directory("demo");
        let dev = Dev::start(&directory, &["--api", "127.0.0.1:0", "--proxy", "127.0.0.1:0"]).await?;
        let mut browser = Browser::start(&directory).await?;
        let url = format!("{}/demo", dev.api);
        let one = browser.open(&url).await?;
        browser.until(&one, "document.querySelectorAll('#list li').length === 1").await?;
        let two = browser.open(&url).await?;
        for window in [&one, &two] {
            browser.until(window, "document.querySelectorAll('#list li').length === 2").await?;
            browser.until(window, "/\\d+ ms/.test(document.body.innerText)").await?;
        }
        // A stroke in one window arrives in the other.
        let ink = "(() => { const c = document.querySelector('canvas'); const d = c.getContext('2d')\
                   .getImageData(0, 0, c.width, c.height).data; for (let i = 3; i < d.length; i += 4) \
                   if (d[i]) return true; return false; })()";
        browser.until(&two, &format!("!{ink}")).await?;
        // A place where nothing lies over the canvas.
        let free = "(() => { for (let y = 40; y < innerHeight - 40; y += 20) for (let x = 40; x < innerWidth - 120; x += 20) \
                    if ([0, 50, 100].every(d => document.elementFromPoint(x + d, y) === document.querySelector('canvas'))) \
                    return [x, y]; })()";
        let place = browser.evaluate(&one, free).await?;
        let (x, y) = (place[0].as_f64().context("x")?, place[1].as_f64().context("y")?);
        browser.mouse(&one, "mouseMoved", x, y, false).await?;
        browser.mouse(&one, "mousePressed", x, y, true).await?;
        for step in 1..=20 {
            browser.mouse(&one, "mouseMoved", x + 5.0 * f64::from(step), y, true).await?;
        }
        browser.mouse(&one, "mouseReleased", x + 100.0, y, false).await?;
        browser.until(&one, ink).await.context("in the window that draws")?;
        browser.until(&two, ink).await?;
        browser.close(one).await?;
        browser.until(&two, "document.querySelectorAll('#list li').length === 1").await?;
        browser.close(two).await?;
        dev.until_said("its last window was closed").await?;
        eventually("the demo's container goes", SOON, async || {
            let left = dev.slots().await.map_err(|error| error.to_string())?;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await?;
        browser.end().await?;
        dev.end().await
    });
}

#[test]
fn with_keep_sessions_stay_and_the_next_start_adopts_them() {
    run(async {
        let directory = directory("keep");
        let dev = Dev::start(
            &directory,
            &["--api", "127.0.0.1:0", "--proxy", "127.0.0.1:0", "--keep", "--no-demo"],
        )
        .await?;
        let image = engine::test_image(&engine::docker().await?).await?;
        let body = json!({ "key": { "name": "kept" }, "spawn_config": { "executable": { "image": image } } });
        let answer = dev.connect(&body).await?;
        let url = answer["url"].as_str().with_context(|| answer.to_string())?.to_owned();
        Session::open(&url).await?.echo("before").await?;
        let proxy = format!("127.0.0.1:{}", url.split([':', '/']).nth(4).context("port")?);
        let api = dev.api.trim_start_matches("http://").to_owned();

        let mut first = dev;
        ensure!(first.process.stop(Signal::SIGINT).await?, "{}", first.said());
        ensure!(first.slots().await?.len() == 1, "the session stays");
        ensure!(!directory.join("data/postgres/postmaster.pid").exists(), "Postgres goes, the session stays");
        let second = Dev::start(&directory, &["--api", &api, "--proxy", &proxy, "--no-demo"]).await?;
        let again = second.connect(&body).await?;
        ensure!(again["spawned"] == false && again["backend_id"] == answer["backend_id"], "{again}");
        let mut session = Session::open(&url).await.context("the old URL")?;
        session.echo("the same process").await?;
        second.end().await
    });
}

#[test]
fn a_kill_of_jetway_dev_is_healed_by_the_next_start() {
    run(async {
        let directory = directory("killed");
        let flags = ["--api", "127.0.0.1:0", "--proxy", "127.0.0.1:0", "--no-demo"];
        let mut first = Dev::start(&directory, &flags).await?;
        first.process.stop(Signal::SIGKILL).await?;
        // Its Postgres lives on, and is taken over.
        ensure!(directory.join("data/postgres/postmaster.pid").exists());
        let second = Dev::start(&directory, &flags).await?;
        second.end().await
    });
}
