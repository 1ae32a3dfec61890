//! A connect that waits says at once what holds the start up, and not only when its wait is over.

use std::time::Duration;

use jetway_api::backends::{Backend, Backends};
use serde_json::Value;
use tokio::time::sleep;

use crate::cli::api::{ApiArguments, encode};
use crate::cli::output;

/// A hint is there some hundred milliseconds after the application has opened the wrong port.
const LOOK: Duration = Duration::from_millis(500);

/// The connect's answer. Each new hint goes to stderr meanwhile.
pub async fn hints<T>(
    api: &ApiArguments,
    key: &Value,
    asking: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let watching = async {
        let mut told = None;
        loop {
            sleep(LOOK).await;
            // An API that fails here fails the connect, too, and that says why.
            let Some(hint) = hint(api, key).await.filter(|hint| told.as_ref() != Some(hint)) else {
                continue;
            };
            eprintln!("hint: {}", output::shown(&hint));
            told = Some(hint);
        }
    };
    tokio::select! {
        answer = asking => answer,
        () = watching => std::future::pending().await,
    }
}

async fn hint(api: &ApiArguments, key: &Value) -> Option<String> {
    let part = |name: &str| encode(key[name].as_str().unwrap_or_default());
    let list =
        format!("/ctrl/backends?limit=1&state=live&key={}&namespace={}", part("name"), part("namespace"));
    let list: Backends = api.get(&list).await.ok()?.known;
    let id = &list.backends.first()?.backend_id;
    let backend: Backend = api.get(&format!("/ctrl/backends/{id}")).await.ok()?.known;
    backend.hint.map(|hint| hint.message)
}
