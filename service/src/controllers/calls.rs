//! Calls to the controllers. Any of them serves, so a call that fails at one moves on to the next.
//!
//! Not here: retries over time, and the log lines about failures. Both belong to the callers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::is_to_be_asked_elsewhere;
use crate::client::{CallError, Client};

/// For one call to one controller.
pub const CALL_MAX: Duration = Duration::from_secs(5);
/// Between calls that fail, at first and at most.
pub const RETRY_FIRST: Duration = Duration::from_millis(50);
pub const RETRY_MAX: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Controllers {
    urls: Vec<String>,
    client: Client,
    /// The one that is asked first, counted round and round.
    current: AtomicUsize,
}

impl Controllers {
    /// `urls` without a slash at their ends.
    pub fn new(urls: Vec<String>, client: Client) -> Self {
        Self { urls, client, current: AtomicUsize::new(0) }
    }

    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Asks one after another until one answers; each has `deadline`. A refusal in our own words is
    /// an answer. Where none answers, the result is the last one's error.
    pub async fn post<B, T>(&self, path: &str, body: &B, deadline: Duration) -> Result<T, CallError>
    where
        B: Serialize + Sync,
        T: DeserializeOwned,
    {
        let first = self.current();
        let mut tried = 0;
        loop {
            let controller = first.wrapping_add(tried);
            match self.post_at(controller, path, body, deadline).await.1 {
                Ok(answer) => {
                    self.current.store(controller, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) if tried + 1 >= self.urls.len() || !is_to_be_asked_elsewhere(&error) => {
                    return Err(error);
                }
                Err(_) => tried += 1,
            }
        }
    }

    /// One try at one controller. Our own refusal is an answer; after any other error the next call
    /// goes to another one.
    pub async fn post_once<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, CallError> {
        self.post_to_one(path, body, CALL_MAX, is_to_be_asked_elsewhere).await.1
    }

    /// The same, and which controller it was. The next call goes to another one after an error that
    /// `moves_on`.
    pub async fn post_to_one<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        deadline: Duration,
        moves_on: fn(&CallError) -> bool,
    ) -> (&str, Result<T, CallError>) {
        let current = self.current();
        let (base, answer) = self.post_at(current, path, body, deadline).await;
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
        deadline: Duration,
    ) -> (&str, Result<T, CallError>) {
        let Some(base) = self.urls.get(controller % self.urls.len().max(1)) else {
            let reason = "no controller is configured".to_owned();
            return ("", Err(CallError::NotSent { url: path.to_owned(), reason }));
        };
        (base, self.client.post(&format!("{base}{path}"), body, deadline).await)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// A controller that gives each connection this answer.
    async fn answering(status: &'static str, body: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _head = stream.read(&mut [0; 4096]).await;
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _sent = stream.write_all(answer.as_bytes()).await;
            }
        };
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(serve);
        url
    }

    /// An address at which nothing listens.
    async fn absent() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    fn controllers(urls: Vec<String>) -> Controllers {
        Controllers::new(urls, Client::new("secret".to_owned()))
    }

    #[tokio::test]
    async fn a_call_goes_round_until_one_answers_which_is_then_asked_first() {
        let controllers = controllers(vec![
            absent().await,
            answering("503 Unavailable", "").await,
            answering("200 OK", "7").await,
        ]);
        assert_eq!(controllers.post::<_, u8>("/x", &(), DEADLINE).await.unwrap(), 7);
        assert_eq!(controllers.current(), 2);
    }

    #[tokio::test]
    async fn a_refusal_in_our_words_is_an_answer() {
        let refusing = answering("422 Unprocessable", r#"{"code":"invalid_request","message":"no"}"#).await;
        let controllers = controllers(vec![refusing, answering("200 OK", "7").await]);
        let refused = controllers.post::<_, u8>("/x", &(), DEADLINE).await;
        assert!(matches!(refused, Err(CallError::Refused { status: 422, .. })), "{refused:?}");
        assert!(controllers.post_once::<_, u8>("/x", &()).await.is_err());
        assert_eq!(controllers.current(), 0, "the next call goes to the same one");
    }

    #[tokio::test]
    async fn one_try_moves_on_for_the_next_call() {
        let controllers = controllers(vec![absent().await, answering("200 OK", "7").await]);
        assert!(matches!(controllers.post_once::<_, u8>("/x", &()).await, Err(CallError::NotSent { .. })));
        assert_eq!(controllers.post_once::<_, u8>("/x", &()).await.unwrap(), 7);
        controllers.move_on(0);
        assert_eq!(controllers.current(), 1, "another caller moved on before");
    }

    #[tokio::test]
    async fn without_a_controller_nothing_is_sent() {
        let none = controllers(Vec::new());
        assert!(matches!(none.post::<_, u8>("/x", &(), DEADLINE).await, Err(CallError::NotSent { .. })));
    }
}
