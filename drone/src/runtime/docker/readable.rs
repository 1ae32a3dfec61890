//! Containers under names that people can read: `jetway-<key>` instead of `jetway-<slot>`, where a
//! developer's machine asks for it. A slot has its name before its session comes, so the container
//! is renamed.
//!
//! Calls then go by the engine's id, which outlives every rename. A container that is looked for
//! under a wrong name would count as gone, and its key as free; so each process lists what is there
//! before its first call.

use std::time::Duration;

use bollard::query_parameters::RenameContainerOptionsBuilder;
use dashmap::DashMap;
use jetway_protocol::ids::SlotId;
use jetway_protocol::key::Key;
use jetway_service::backoff::Backoff;

use super::answer::{bounded, text};
use super::config::DockerConfig;
use super::engine::Engine;
use super::{container, names};
use crate::runtime::RuntimeError;

/// The key's last container may still be there under the name.
const TRIES: u32 = 6;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Of a key, in a name.
const CHARS_MAX: usize = 60;

/// By which name or id the engine knows a slot's container.
#[derive(Debug, Default)]
pub struct Readable {
    renamed: DashMap<SlotId, String>,
}

impl Readable {
    /// With what an earlier process has renamed.
    pub async fn found(engine: &Engine, config: &DockerConfig) -> Result<Self, RuntimeError> {
        let filters = names::filter(config.installation, config.drone, Some(names::ROLE_SLOT)).to_string();
        let rows = engine.get("/containers/json", &[("all", "true"), ("filters", &filters)]).await?;
        let readable = Self::default();
        for row in rows.as_array().into_iter().flatten() {
            let Ok(slot) = text(&row["Labels"][names::LABEL_SLOT]).parse::<SlotId>() else { continue };
            let usual = format!("/{}", names::container(slot));
            if !row["Names"].as_array().is_some_and(|names| names.iter().any(|name| *name == usual)) {
                readable.renamed.insert(slot, text(&row["Id"]));
            }
        }
        Ok(readable)
    }

    pub fn container(&self, slot: SlotId) -> String {
        self.renamed.get(&slot).map_or_else(|| names::container(slot), |id| id.clone())
    }

    pub fn forget(&self, slot: SlotId) {
        self.renamed.remove(&slot);
    }

    pub async fn rename(&self, engine: &Engine, slot: SlotId, key: &Key) -> Result<(), RuntimeError> {
        let inspected = container::id(engine, &self.container(slot)).await?;
        let id = inspected.ok_or(RuntimeError::Absent)?;
        // From here on by its id: whatever comes of the rename, it is the same container.
        self.renamed.insert(slot, id.clone());
        let wanted = name_of(key);
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        for tried in 0..=TRIES {
            let is_last = tried == TRIES;
            let name =
                if is_last { format!("{wanted}-{}", names::slot_directory(slot)) } else { wanted.clone() };
            let options = RenameContainerOptionsBuilder::default().name(&name).build();
            match bounded(engine.docker().rename_container(&id, options)).await {
                Err(RuntimeError::Refused(message)) if message.contains("already in use") && !is_last => {}
                outcome => return outcome,
            }
            backoff.wait().await;
        }
        Ok(())
    }
}

/// Engines take `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
fn name_of(key: &Key) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '-' };
    let whole =
        if key.namespace.is_empty() { key.name.clone() } else { format!("{}-{}", key.namespace, key.name) };
    format!("jetway-{}", whole.chars().map(fits).take(CHARS_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_becomes_a_name_that_engines_take() {
        let name = |name: &str, namespace: &str| {
            name_of(&Key { name: name.into(), namespace: namespace.into(), tag: String::new() })
        };
        assert_eq!(name("my-document", ""), "jetway-my-document");
        assert_eq!(name("main", "demo"), "jetway-demo-main");
        assert_eq!(name("a/b c\u{e4}", ""), "jetway-a-b-c-");
        assert_eq!(name(&"x".repeat(1000), "").len(), 67);
    }
}
