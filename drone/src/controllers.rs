//! Calls to the controllers: any of them serves, so a call that fails moves on to the next one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jetway_protocol::secret::{Purpose, Secret};
use jetway_service::client::{CallError, Client};
use jetway_service::controllers::is_to_be_asked_elsewhere;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub const CALL_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Controllers {
    urls: Vec<String>,
    current: AtomicUsize,
    client: Client,
}

impl Controllers {
    /// `urls` without a slash at their ends.
    pub fn new(urls: Vec<String>, secret: &Secret) -> Self {
        Self {
            urls,
            current: AtomicUsize::new(0),
            client: Client::new(secret.bearer(Purpose::DroneToController)),
        }
    }

    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// One try at one controller. Our own refusal is an answer; after anything else the next call goes to another one.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, CallError> {
        self.post_to_one(path, body, CALL_MAX, is_to_be_asked_elsewhere).await.1
    }

    /// The same, and which controller it was; the next call goes to another one after an error that `moves_on`.
    pub async fn post_to_one<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        patience: Duration,
        moves_on: fn(&CallError) -> bool,
    ) -> (&str, Result<T, CallError>) {
        let current = self.current.load(Ordering::Relaxed);
        let Some(base) = self.urls.get(current % self.urls.len().max(1)) else {
            let reason = "no controller is configured".to_owned();
            return ("", Err(CallError::NotSent { url: path.to_owned(), reason }));
        };
        let answer = self.client.post(&format!("{base}{path}"), body, patience).await;
        if answer.as_ref().is_err_and(moves_on) {
            self.move_on(current);
        }
        (base, answer)
    }

    /// Only one of several callers that failed at the same controller moves on.
    fn move_on(&self, from: usize) {
        let next = from.wrapping_add(1);
        let _another_moved_already =
            self.current.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}
