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
        let current = self.current();
        let (base, answer) = self.post_at(current, path, body, patience).await;
        if answer.as_ref().is_err_and(moves_on) {
            self.move_on(current);
        }
        (base, answer)
    }

    /// One try at the controller of that number, counted round and round.
    pub async fn post_at<B: Serialize, T: DeserializeOwned>(
        &self,
        controller: usize,
        path: &str,
        body: &B,
        patience: Duration,
    ) -> (&str, Result<T, CallError>) {
        let Some(base) = self.urls.get(controller % self.urls.len().max(1)) else {
            let reason = "no controller is configured".to_owned();
            return ("", Err(CallError::NotSent { url: path.to_owned(), reason }));
        };
        (base, self.client.post(&format!("{base}{path}"), body, patience).await)
    }

    /// The number of the one that is asked first.
    pub fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Only one of several callers that failed at the same controller moves on.
    pub fn move_on(&self, from: usize) {
        self.prefer(from, from.wrapping_add(1));
    }

    /// From now on another one is asked first, unless that was changed meanwhile.
    pub fn prefer(&self, from: usize, to: usize) {
        let _another_moved_already =
            self.current.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}
