//! The controllers, asked one after another until one answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jetway_service::client::{CallError, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[derive(Debug)]
pub struct Controllers {
    urls: Vec<String>,
    client: Client,
    /// The one that answered last.
    first: AtomicUsize,
}

impl Controllers {
    /// `urls`: at least one.
    pub fn new(urls: Vec<String>, client: Client) -> Self {
        Self { urls, client, first: AtomicUsize::new(0) }
    }

    /// Each has `deadline`. What the last one said, if none answers.
    pub async fn post<B, T>(&self, path: &str, body: &B, deadline: Duration) -> Result<T, CallError>
    where
        B: Serialize + Sync,
        T: DeserializeOwned,
    {
        let first = self.first.load(Ordering::Relaxed);
        let mut tried = 0;
        loop {
            let which = (first + tried) % self.urls.len();
            let url = format!("{}{path}", self.urls[which]);
            match self.client.post(&url, body, deadline).await {
                Ok(answer) => {
                    self.first.store(which, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) if tried + 1 == self.urls.len() => return Err(error),
                Err(_) => tried += 1,
            }
        }
    }
}
