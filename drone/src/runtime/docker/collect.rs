//! Room on the engine's disk: where it is nearly full, images that this drone itself has pulled and that nothing needs are
//! removed, least recently used first, until it is not. Another's image is never touched, nor one that a container has, in
//! whatever state. Not its business: what was pulled and used ([`super::pulled`]); what is needed, which the caller says.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use bollard::query_parameters::RemoveImageOptions;
use jetway_protocol::image::Reference;
use serde_json::Value;

use super::answer::{bounded, text};
use super::engine::Engine;
use super::image::Images;
use super::pulled::Entry;
use crate::runtime::RuntimeError;

/// What becomes of one image.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// By this name or id; the engine removes no more than that, and nothing that has other names.
    Remove(String),
    /// It is not on the engine, or not this drone's any more.
    Forget,
}

/// Returns the names of what was removed.
pub async fn collect(
    engine: &Engine,
    images: &Images,
    disk: &Disk,
    keep: &[String],
) -> Result<Vec<String>, RuntimeError> {
    let mut removed = Vec::new();
    if !disk.is_full() {
        return Ok(removed);
    }
    let kept = normalized(keep);
    let in_containers = images_of_containers(engine).await?;
    for (id, entry) in images.pulled().by_use() {
        if !disk.is_full() {
            break;
        }
        let is_needed = [&id, &entry.name].iter().any(|name| kept.contains(*name));
        if is_needed || in_containers.contains(&id) || images.is_pulling(&entry.name) {
            continue;
        }
        match judge(engine, &id, &entry).await? {
            Verdict::Forget => images.pulled().forget(&id),
            Verdict::Remove(what) => match remove(engine, &what).await {
                Ok(()) => {
                    tracing::info!(image = %entry.name, "removed an unused image: the engine's disk is nearly full");
                    images.pulled().forget(&id);
                    removed.push(entry.name);
                }
                // A container was made of it since, or another image is made on it.
                Err(RuntimeError::Refused(reason)) => {
                    tracing::debug!(image = %entry.name, reason, "an image is not removed");
                }
                Err(error) => return Err(error),
            },
        }
    }
    images.pulled().save();
    if disk.is_full() {
        tracing::warn!(
            path = %disk.path.display(), percent = disk.percent,
            "the engine's disk is nearly full, and no image is left that could be removed: make room on it"
        );
    }
    Ok(removed)
}

/// The engine's disk, and how full it may be.
pub struct Disk {
    path: PathBuf,
    percent: u8,
}

impl Disk {
    /// `root`: the engine's directory as it says itself. Where this process cannot see it (it runs in a container), its own data
    /// directory stands in for it: a volume, so most likely on the same disk.
    pub fn new(root: &Path, data_dir: &Path, percent: u8) -> Self {
        let is_visible = root.is_absolute() && root.is_dir();
        Self { path: if is_visible { root } else { data_dir }.to_owned(), percent }
    }

    fn is_full(&self) -> bool {
        self.percent > 0
            && rustix::fs::statvfs(&self.path)
                .is_ok_and(|disk| is_over(disk.f_blocks, disk.f_bfree, disk.f_bavail, self.percent))
    }
}

/// As `df` counts: what is kept for root is neither used nor available.
fn is_over(blocks: u64, free: u64, available: u64, percent: u8) -> bool {
    let used = u128::from(blocks.saturating_sub(free));
    used * 100 > (used + u128::from(available)) * u128::from(percent)
}

fn normalized(names: &[String]) -> HashSet<String> {
    names.iter().filter_map(|name| Some(Reference::parse(name).ok()?.to_string())).collect()
}

async fn images_of_containers(engine: &Engine) -> Result<HashSet<String>, RuntimeError> {
    let answer = engine.get("/containers/json", &[("all", "true")]).await?;
    let Some(rows) = answer.as_array() else {
        return Err(RuntimeError::Engine("the list of containers is not a list".to_owned()));
    };
    Ok(rows.iter().map(|row| text(&row["ImageID"])).collect())
}

async fn judge(engine: &Engine, id: &str, entry: &Entry) -> Result<Verdict, RuntimeError> {
    let named = look(engine, &entry.name).await?;
    let by_id = match &named {
        Some(found) if text(&found["Id"]) == id => None,
        _ => look(engine, id).await?,
    };
    Ok(verdict(id, entry, named.as_ref(), by_id.as_ref()))
}

/// `named`: what its name means now; `by_id`: the image itself, looked at where that is another.
fn verdict(id: &str, entry: &Entry, named: Option<&Value>, by_id: Option<&Value>) -> Verdict {
    if named.is_some_and(|found| text(&found["Id"]) == id) {
        return Verdict::Remove(entry.name.clone());
    }
    // Its name went to a newer one. Without any name it is nobody's; with another, somebody wants it.
    let is_nameless = |found: &Value| found["RepoTags"].as_array().is_none_or(Vec::is_empty);
    match by_id {
        Some(found) if is_nameless(found) => Verdict::Remove(id.to_owned()),
        _ => Verdict::Forget,
    }
}

async fn look(engine: &Engine, image: &str) -> Result<Option<Value>, RuntimeError> {
    match engine.get(&format!("/images/{image}/json"), &[]).await {
        Ok(found) => Ok(Some(found)),
        Err(RuntimeError::Refused(_) | RuntimeError::Absent) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Without force: the engine refuses what is in use.
async fn remove(engine: &Engine, image: &str) -> Result<(), RuntimeError> {
    bounded(engine.docker().remove_image(image, None::<RemoveImageOptions>, None)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn full_is_counted_as_df_does() {
        for (blocks, free, available, percent, expect) in [
            (100, 20, 20, 85, false),
            (100, 10, 10, 85, true),
            (100, 15, 15, 85, false),
            // 10 of 100 are kept for root: 80 of the other 90 are 88 %.
            (100, 20, 10, 85, true),
            (0, 0, 0, 85, false),
            (100, 99, 99, 1, false),
            (100, 0, 0, 100, false),
        ] {
            assert_eq!(is_over(blocks, free, available, percent), expect, "{blocks} {free} {available}");
        }
        let here = std::env::temp_dir();
        assert!(!Disk::new(&here, &here, 0).is_full(), "0 is never");
        assert_eq!(Disk::new(Path::new("/no/such"), &here, 1).path, here);
    }

    #[test]
    fn only_what_is_this_drones_is_removed() {
        let entry: Entry = serde_json::from_value(json!({"name": "r/app:1", "used": 1})).unwrap();
        let image = |id: &str, tags: Value| json!({"Id": id, "RepoTags": tags});
        let remove = |what: &str| Verdict::Remove(what.to_owned());
        for (what, named, by_id, expect) in [
            ("it has its name", Some(image("i", json!(["r/app:1"]))), None, remove("r/app:1")),
            ("and others, which stay", Some(image("i", json!(["r/app:1", "x"]))), None, remove("r/app:1")),
            (
                "its name went on",
                Some(image("n", json!(["r/app:1"]))),
                Some(image("i", json!([]))),
                remove("i"),
            ),
            ("so, in other words", None, Some(image("i", json!(null))), remove("i")),
            ("somebody else named it", None, Some(image("i", json!(["mine"]))), Verdict::Forget),
            ("it is gone", None, None, Verdict::Forget),
            ("another is in its place", Some(image("n", json!(["r/app:1"]))), None, Verdict::Forget),
        ] {
            assert_eq!(verdict("i", &entry, named.as_ref(), by_id.as_ref()), expect, "{what}");
        }
    }

    #[test]
    fn names_are_compared_in_full() {
        let kept = normalized(&["app".to_owned(), "not a name!".to_owned(), "r.example/app:2".to_owned()]);
        assert_eq!(kept, HashSet::from(["app:latest".to_owned(), "r.example/app:2".to_owned()]));
    }
}
