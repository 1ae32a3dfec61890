//! `Expect: 100-continue` (RFC 9110 §10.1.1): the client is asked for its body when the backend
//! asks for it, not before, so that a refusal costs no upload.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{EXPECT, HeaderMap};
use http::{Request, StatusCode};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Sleep;

/// A backend that does not know of it says nothing, and waits for the body.
const PATIENCE: Duration = Duration::from_secs(1);

/// On the body's side.
#[derive(Debug)]
pub enum Patience {
    Waits { word: oneshot::Receiver<Word>, patience: Pin<Box<Sleep>> },
    Over(Word),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Now,
    Never,
}

/// On the side that hears the backend.
#[derive(Debug, Clone)]
pub struct Expectation(Arc<Mutex<Option<oneshot::Sender<Word>>>>);

/// Whether a request says that its body waits.
pub fn is_in(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

pub fn pair() -> (Expectation, Patience) {
    let (tell, word) = oneshot::channel();
    let patience = Box::pin(tokio::time::sleep(PATIENCE));
    (Expectation(Arc::new(Mutex::new(Some(tell)))), Patience::Waits { word, patience })
}

impl Expectation {
    /// Goes with this request, and hears the interim answers (`interim::Watch::listen`).
    pub fn go_with<B>(&self, request: &mut Request<B>) {
        request.extensions_mut().insert(self.clone());
    }

    pub fn hear(&self, status: StatusCode) {
        if status == StatusCode::CONTINUE {
            let _on_its_way_already = self.say(Word::Now);
        }
    }

    /// The answer is there. True: it refuses a body that was never asked for, and now never is. An
    /// application that streams may well begin its answer before it reads.
    pub fn ends_unmet(&self, status: StatusCode) -> bool {
        if status.is_success() {
            let _on_its_way_already = self.say(Word::Now);
            return false;
        }
        self.say(Word::Never)
    }

    fn say(&self, word: Word) -> bool {
        let tell = self.0.lock().take();
        tell.is_some_and(|tell| tell.send(word).is_ok())
    }
}

impl Patience {
    /// Ready when the body may be asked for; never, once the backend has refused it.
    pub fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Patience::Waits { word, patience } = self {
            let word = match Pin::new(word).poll(cx) {
                Poll::Ready(word) => word.unwrap_or(Word::Never),
                Poll::Pending => {
                    ready!(patience.as_mut().poll(cx));
                    Word::Now
                }
            };
            *self = Patience::Over(word);
        }
        match self {
            Patience::Over(Word::Now) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{Instant, timeout};

    use super::*;

    async fn wanted(patience: &mut Patience) {
        poll_fn(|cx| patience.poll_wanted(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_waits_for_the_backends_word_and_not_for_ever() {
        let begun = Instant::now();
        let (expectation, mut patience) = pair();
        assert!(expectation.say(Word::Now));
        wanted(&mut patience).await;
        assert!(begun.elapsed().is_zero());
        assert!(!expectation.ends_unmet(StatusCode::FORBIDDEN));

        let (expectation, mut patience) = pair();
        wanted(&mut patience).await;
        assert_eq!(begun.elapsed(), PATIENCE, "the backend may not know of it");
        assert!(!expectation.ends_unmet(StatusCode::FORBIDDEN), "it goes, after all");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_refusal_nobody_asks_for_the_body() {
        let (expectation, mut patience) = pair();
        assert!(!expectation.ends_unmet(StatusCode::OK));
        wanted(&mut patience).await;
        let (expectation, mut patience) = pair();
        assert!(expectation.ends_unmet(StatusCode::FORBIDDEN));
        assert!(timeout(PATIENCE * 10, wanted(&mut patience)).await.is_err());
    }
}
