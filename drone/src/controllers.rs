//! Calls to the controllers: any of them serves, so a call that fails moves on to the next one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jetway_protocol::secret::{Purpose, Secret};
use jetway_service::client::{CallError, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;

const CALL_SECONDS_MAX: u64 = 5;

#[derive(Debug)]
pub struct Controllers {
    urls: Vec<String>,
    current: AtomicUsize,
    client: Client,
}

impl Controllers {
    pub fn new(urls: &[String], secret: &Secret) -> Self {
        let urls = urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Self {
            urls,
            current: AtomicUsize::new(0),
            client: Client::new(secret.bearer(Purpose::DroneToController)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.urls.is_empty()
    }

    /// One try at one controller. A refusal is an answer; after anything else the next call goes to another one.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, CallError> {
        let current = self.current.load(Ordering::Relaxed);
        let Some(base) = self.urls.get(current % self.urls.len().max(1)) else {
            return Err(CallError::NotSent {
                url: path.to_owned(),
                reason: "no controller is configured".to_owned(),
            });
        };
        let answer =
            self.client.post(&format!("{base}{path}"), body, Duration::from_secs(CALL_SECONDS_MAX)).await;
        let failed = match &answer {
            Ok(_) => false,
            Err(CallError::Refused { status, .. }) => *status >= 500,
            Err(_) => true,
        };
        if failed {
            let next = current.wrapping_add(1);
            // Only one of several callers that failed at the same controller moves on.
            let _another_moved_already =
                self.current.compare_exchange(current, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        answer
    }
}
