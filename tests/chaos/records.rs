//! Collects the facts after a run: the sessions' files and the drones' words from their hosts, and the rows from the API.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::beats::Beats;
use crate::check::{Row, Session};
use crate::places::{DRONES, Part, beats_dir};

/// Of one container.
pub fn sessions_in(directory: &Path, drone: u8) -> anyhow::Result<Vec<Session>> {
    let container = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut sessions = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // A process that was killed while it made the file was a start all the same.
        let beats = Beats::parse(&std::fs::read(entry.path())?)
            .or_else(|| Beats::of_file_name(&entry.file_name().to_string_lossy()))
            .with_context(|| format!("{} is no session's file", entry.path().display()))?;
        sessions.push(Session { drone, container: container.clone(), beats });
    }
    Ok(sessions)
}

/// Whether a process counts that was killed before it had written anything of itself.
pub fn counts_empty_files() -> anyhow::Result<bool> {
    let directory = std::env::temp_dir().join(format!("jetway-chaos-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("a-1.7"), "")?;
    let sessions = sessions_in(&directory, 1);
    std::fs::remove_dir_all(&directory)?;
    let is_it = |session: &Session| (session.beats.backend.as_str(), session.beats.first) == ("a-1", 7);
    Ok(matches!(&sessions?[..], [session] if is_it(session)))
}

pub fn sessions() -> anyhow::Result<Vec<Session>> {
    let mut all = Vec::new();
    for drone in 1..=DRONES {
        for container in std::fs::read_dir(beats_dir(drone))? {
            all.extend(sessions_in(&container?.path(), drone)?);
        }
    }
    Ok(all)
}

/// Why each backend ended, as the drones have written down in their tombstones.
pub fn words() -> anyhow::Result<HashMap<String, String>> {
    let mut words = HashMap::new();
    for drone in 1..=DRONES {
        let text = std::fs::read_to_string(Part::Drone(drone).directory().join("tombstones.ndjson"))?;
        for line in text.lines() {
            let tombstone: Value = serde_json::from_str(line).context("a drone's tombstone")?;
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            words.insert(text(&tombstone["id"]), text(&tombstone["end"]["reason"]));
        }
    }
    Ok(words)
}

/// Every row of the API's list.
pub async fn rows(http: &reqwest::Client, controller: &str) -> anyhow::Result<HashMap<String, Row>> {
    let (mut rows, mut cursor) = (HashMap::new(), String::new());
    loop {
        let url = format!("http://{controller}/ctrl/backends?limit=200{cursor}");
        let page: Value = http.get(url).send().await?.error_for_status()?.json().await?;
        for backend in page["backends"].as_array().context("a list")? {
            let text = |name: &str| backend[name].as_str().unwrap_or("-").to_owned();
            let drone = text("drone").trim_start_matches('d').parse().ok();
            let tier = String::new();
            let (status, end_reason, message) = (text("status"), text("end_reason"), text("message"));
            let row = Row { status, end_reason, message, drone, tier };
            rows.insert(text("backend_id"), row);
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(rows),
        }
    }
}

/// What each of these sessions' starts was given, by its backend's timeline.
pub async fn tiers(
    http: &reqwest::Client,
    controller: &str,
    sessions: &[Session],
    rows: &mut HashMap<String, Row>,
) -> anyhow::Result<()> {
    for backend in sessions.iter().map(|session| &session.beats.backend) {
        let Some(row) = rows.get_mut(backend) else { continue };
        let url = format!("http://{controller}/ctrl/backends/{backend}");
        let shown: Value = http.get(url).send().await?.error_for_status()?.json().await?;
        let stages = shown["timeline"].as_array().context("a timeline")?;
        let claimed = stages.iter().find(|stage| stage["stage"] == "claimed");
        let note = claimed.and_then(|stage| stage["note"].as_str()).unwrap_or("unknown");
        note.split(':').next().unwrap_or_default().clone_into(&mut row.tier);
    }
    Ok(())
}
