//! Real processes that must not be, planted in each run: a second process beside a real session, and an application that is told of two
//! sessions. The checker must see both.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::check::{Facts, check};
use crate::harness::{eventually, processes::executable};
use crate::places::{locks_dir, root};
use crate::records::sessions_in;

/// Of the planted hot application, on the router.
const HOT_PORT: u16 = 8081;
const TAKEN: Duration = Duration::from_secs(20);

/// A second process for the key of a session that lives now: the checker must see that one overlap, and no other.
pub fn second_process(key: &str) -> anyhow::Result<()> {
    let directory = root().join("planted");
    std::fs::create_dir_all(&directory)?;
    let status = Command::new(executable("jetway-chaos-app")?)
        .env("BEATS", &directory)
        .env("LOCKS", locks_dir())
        .env("RUN_MS", "200")
        .env("SESSION_BACKEND_KEY", key)
        .env("SESSION_BACKEND_ID", "planted")
        .env("SESSION_BACKEND_FENCING_TOKEN", u64::MAX.to_string())
        .stdin(Stdio::null())
        .status()?;
    ensure!(status.success(), "the planted process: {status}");
    Ok(())
}

/// A hot application that is told of two sessions: the checker must see that its container was given twice.
pub async fn second_session(http: &reqwest::Client) -> anyhow::Result<()> {
    let directory = root().join("planted-hot");
    std::fs::create_dir_all(&directory)?;
    let mut process = Command::new(executable("jetway-chaos-app")?)
        .env("BEATS", &directory)
        .env("LOCKS", locks_dir())
        .env("PORT", HOT_PORT.to_string())
        .stdin(Stdio::null())
        .spawn()?;
    for (fence, key) in [(1_u64, "one"), (2, "two")] {
        let told = json!({
            "backend_id": format!("planted-{key}"), "fencing_token": fence,
            "key": { "name": format!("planted-{key}"), "namespace": "", "tag": "" }, "env": {},
        });
        let url = format!("http://127.0.0.1:{HOT_PORT}/claim");
        let tell = async || http.post(&url).json(&told).send().await?.error_for_status().map(drop);
        eventually("the planted application takes a session", TAKEN, tell).await?;
    }
    kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGTERM)?;
    let status = process.wait()?;
    ensure!(status.success(), "the planted hot application: {status}");
    Ok(())
}

/// What the checker sees of all that was planted, and does not see without.
pub fn caught(facts: &Facts) -> anyhow::Result<[String; 2]> {
    let planted = sessions_in(&root().join("planted"), 3)?;
    ensure!(planted.len() == 1, "there is one planted process, not {}", planted.len());
    ensure!(planted[0].beats.beside != 0, "the planted process did not find the key's lock held");
    let hot = sessions_in(&root().join("planted-hot"), 3)?;
    ensure!(hot.len() == 2, "a planted process has two sessions, not {}", hot.len());
    let without = check(facts).overlaps;
    let mut sessions = facts.sessions.clone();
    sessions.extend(planted);
    sessions.extend(hot);
    let with = check(&Facts {
        start: facts.start,
        terms: facts.terms,
        sessions,
        rows: facts.rows.clone(),
        words: facts.words.clone(),
        seen: facts.seen.clone(),
    });
    let seen = |what: &str| {
        let is =
            |line: &&String| line.starts_with(what) && line.contains(" planted") && !without.contains(line);
        with.overlaps.iter().find(is).cloned()
    };
    Ok([
        seen("overlap:").context("the checker did not see the planted second process")?,
        seen("shared:").context("the checker did not see the planted second session of one process")?,
    ])
}
