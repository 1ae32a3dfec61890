//! A request's body that has to go on: a client that stops in the middle of one holds its
//! connection, and the application's, for nothing.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::problem::Problem;

#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    #[error("nothing more of the body came in time")]
    Paused,
}

/// Why a body did not come whole, for the task that waits for the answer: a connection to a backend
/// does not always say why it broke.
#[derive(Debug, Clone, Default)]
pub struct Fault(Arc<OnceLock<Problem>>);

impl Fault {
    pub fn get(&self) -> Option<Problem> {
        self.0.get().cloned()
    }

    fn set(&self, problem: Problem) {
        let _the_first_stays = self.0.set(problem);
    }
}

#[derive(Debug)]
pub struct TimedBody<B> {
    body: B,
    fault: Fault,
    /// The longest wait for the next piece. `None`: it may take as long as it likes.
    longest: Option<Duration>,
    /// Runs while a piece is waited for.
    wait: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl<B> TimedBody<B> {
    pub fn new(body: B, longest: Option<Duration>) -> Self {
        Self { body, fault: Fault::default(), longest, wait: None, is_waiting: false }
    }

    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(longest) = self.longest else { return Poll::Pending };
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(longest)));
        if !std::mem::replace(&mut self.is_waiting, true) {
            wait.as_mut().reset(Instant::now() + longest);
        }
        wait.as_mut().poll(cx)
    }
}

impl<B> Body for TimedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    BodyError: From<B::Error>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.is_waiting = false;
                if let Some(Err(_)) = &frame {
                    self.fault.set(Problem::BadBody);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
            }
            Poll::Pending => self.poll_wait(cx).map(|()| {
                self.fault.set(Problem::BodyPaused);
                Some(Err(BodyError::Paused))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// A piece after each of these times.
    fn pieces(after: &[u64]) -> Pin<Box<dyn Body<Data = Bytes, Error = hyper::Error> + Send>> {
        let pieces = stream::iter(after.to_vec()).then(|seconds| async move {
            sleep(Duration::from_secs(seconds)).await;
            Ok(Frame::data(Bytes::from_static(b"x")))
        });
        Box::pin(StreamBody::new(pieces))
    }

    async fn collected(after: &[u64], longest: Option<u64>) -> Result<usize, BodyError> {
        let body = TimedBody::new(pieces(after), longest.map(Duration::from_secs));
        Ok(body.collect().await?.to_bytes().len())
    }

    #[tokio::test(start_paused = true)]
    async fn each_piece_has_its_time() {
        assert_eq!(collected(&[50, 50, 0, 59], Some(60)).await.unwrap(), 4);
        let begun = Instant::now();
        assert!(matches!(collected(&[50, 61], Some(60)).await, Err(BodyError::Paused)));
        assert_eq!(begun.elapsed(), Duration::from_secs(110));
        assert_eq!(collected(&[50, 100_000], None).await.unwrap(), 2);
    }
}
