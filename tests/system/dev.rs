//! `jetway dev` as a newcomer meets it: one process, the demo in two windows of a real browser, Ctrl-C.

use std::process::Command;

use anyhow::{Context, ensure};
use jetway_testkit::eventually::SOON;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::browser::Browser;
use crate::harness::dev::{Dev, directory, run};
use crate::harness::processes::executable;
use crate::harness::{Session, engine, eventually};

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
        let address = browser.evaluate(&one, "location.href").await?;
        let address = address.as_str().context("an address")?;
        ensure!(address.contains(".localhost:") && address.ends_with('/'), "{address}");
        browser.close(one).await?;
        browser.until(&two, "document.querySelectorAll('#list li').length === 1").await?;
        browser.close(two).await?;
        dev.until_said("its last window was closed").await?;
        eventually("the demo's container goes", SOON, async || {
            let left = dev.slots().await.map_err(|error| error.to_string())?;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await?;
        // The room's address stays, and leads to its next session.
        let again = browser.open(address).await?;
        browser.until(&again, "document.querySelectorAll('#list li').length === 1").await?;
        ensure!(browser.evaluate(&again, "location.href").await? == address, "another address");
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

#[test]
fn the_printed_command_works_as_printed() {
    run(async {
        let directory = directory("printed");
        let mut dev = Dev::start(&directory, &["--api", "127.0.0.1:0", "--proxy", "127.0.0.1:0"]).await?;
        let said = dev.said();
        let line = said.lines().find_map(|line| line.trim().strip_prefix("try ")).context("a line to try")?;
        let line = line.trim().strip_prefix("bin/jetway ").context("our executable")?;
        let jetway = |line: &str| {
            anyhow::Ok(Command::new(executable("jetway")?).args(line.split_whitespace()).output()?)
        };
        let output = jetway(line)?;
        ensure!(output.status.success(), "{output:?}");
        let url = String::from_utf8(output.stdout)?;
        dev.until_said("session my-room is ready").await?;
        let page = reqwest::get(url.trim()).await?.text().await?;
        ensure!(page.contains("<canvas"), "{page}");

        for (name, value) in [("sec-fetch-site", "cross-site"), ("host", "evil.example")] {
            let visit = reqwest::Client::new().get(format!("{}/demo/theirs", dev.api));
            let refused = visit.header(name, value).send().await?;
            ensure!(refused.status() == 403, "a page of another site: {refused:?}");
        }
        ensure!(!dev.said().contains("session theirs"), "{}", dev.said());

        // What people see in the engine's list.
        eventually("the container is called after its key", SOON, async || {
            let names = dev.slots().await?;
            ensure!(names.iter().any(|name| name.starts_with("/jetway-my-room")), "{names:?}");
            anyhow::Ok(())
        })
        .await?;
        // It is the same container to everybody: a stop reaches it, and its output is kept.
        let api = format!("--api-url {}", dev.api);
        let stopped = jetway(&format!("stop my-room {api}"))?;
        ensure!(stopped.status.success(), "{stopped:?}");
        dev.until_said("session my-room has ended: somebody stopped it").await?;
        let logs = jetway(&format!("logs my-room {api}"))?;
        ensure!(String::from_utf8_lossy(&logs.stdout).contains("received SIGTERM, ending"), "{logs:?}");

        // The terminal is closed. Under nohup that means nothing, to a child either.
        let own = std::fs::read_to_string("/proc/self/status")?;
        let is_under_nohup = own.lines().any(|line| {
            line.starts_with("SigIgn:") && line.ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f'])
        });
        let closed = if is_under_nohup { Signal::SIGTERM } else { Signal::SIGHUP };
        ensure!(dev.process.stop(closed).await?, "{}", dev.said());
        ensure!(dev.containers().await?.is_empty(), "containers are left");
        std::fs::remove_dir_all(&directory)?;
        Ok(())
    });
}

#[test]
fn a_renamed_container_is_adopted_and_ended() {
    run(async {
        let directory = directory("renamed");
        let flags = ["--api", "127.0.0.1:0", "--proxy", "127.0.0.1:0", "--no-demo"];
        let mut first = Dev::start(&directory, &flags).await?;
        let image = engine::test_image(&engine::docker().await?).await?;
        let body = json!({
            "key": { "name": "kept" }, "wait": "ready", "spawn_config": { "executable": { "image": image } },
        });
        let answer = first.connect(&body).await?;
        eventually("it has its name", SOON, async || {
            let names = first.slots().await?;
            ensure!(names.iter().any(|name| name.starts_with("/jetway-kept")), "{names:?}");
            anyhow::Ok(())
        })
        .await?;
        first.process.stop(Signal::SIGKILL).await?;
        let second = Dev::start(&directory, &flags).await?;
        let again = second.connect(&body).await?;
        ensure!(again["backend_id"] == answer["backend_id"] && again["spawned"] == false, "{again}");
        second.end().await
    });
}

#[test]
fn clean_leaves_nothing_of_earlier_runs() {
    run(async {
        let directory = directory("clean");
        let flags = ["--api", "127.0.0.1:0", "--proxy", "127.0.0.1:0", "--no-demo"];
        let mut first = Dev::start(&directory, &[&flags[..], &["--keep"]].concat()).await?;
        let image = engine::test_image(&engine::docker().await?).await?;
        let executable = json!({ "image": image, "mount": true });
        let body = json!({ "key": { "name": "kept" }, "spawn_config": { "executable": executable }, "wait": "ready" });
        first.connect(&body).await?;
        let mount = directory.join("data/mounts/kept");
        ensure!(mount.is_dir(), "mounts are on");
        ensure!(first.process.stop(Signal::SIGINT).await?, "{}", first.said());
        let old = first.slots().await?;
        ensure!(old.len() == 1, "{old:?}");
        let before = first.drone()?;

        let second = Dev::start(&directory, &[&flags[..], &["--clean"]].concat()).await?;
        second.until_said("removed what earlier runs had left").await?;
        ensure!(second.drone()? != before, "a new drone");
        let docker = engine::docker().await?;
        ensure!(engine::slots(&docker, "jetway.drone", &before).await?.is_empty(), "its container is gone");
        ensure!(engine::networks(&docker, "jetway.drone", &before).await?.is_empty(), "its network is gone");
        ensure!(!mount.exists());
        let list = reqwest::get(format!("{}/ctrl/backends", second.api)).await?.text().await?;
        ensure!(list.contains("\"backends\":[]"), "{list}");
        second.end().await
    });
}
