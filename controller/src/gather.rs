//! What many ask of one place at the same time, asked together. Who comes while nobody asks does so at once and alone; who comes
//! while somebody does waits for that answer, and then one asks for all who wait. So nobody is held up in order to gather,
//! and the more come, the less each one costs.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Asked together, at most.
const TOGETHER_MAX: usize = 64;
/// Who has waited for so long for those before asks without them: one whose answer does not come holds up nobody else.
const PATIENCE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Gather<Q, A> {
    inside: Mutex<Inside<Q, A>>,
}

#[derive(Debug)]
struct Inside<Q, A> {
    waiting: Vec<Waiting<Q, A>>,
    /// Who asks now.
    asking: usize,
    tickets: u64,
}

#[derive(Debug)]
struct Waiting<Q, A> {
    ticket: u64,
    question: Q,
    turn: Tell<Q, A>,
}

/// To one who waits.
type Tell<Q, A> = oneshot::Sender<Turn<Q, A>>;
type Hear<Q, A> = oneshot::Receiver<Turn<Q, A>>;

#[derive(Debug)]
enum Turn<Q, A> {
    Answer(A),
    Ask(Batch<Q, A>),
}

/// The right to ask. It is handed on when this is dropped, wherever that happens.
#[derive(Debug)]
struct Batch<Q, A> {
    gather: Arc<Gather<Q, A>>,
    questions: Vec<Q>,
    /// Of all questions but the first, which is one's own.
    others: Vec<Tell<Q, A>>,
}

impl<Q, A> Default for Gather<Q, A> {
    fn default() -> Self {
        Self { inside: Mutex::new(Inside { waiting: Vec::new(), asking: 0, tickets: 0 }) }
    }
}

impl<Q, A> Gather<Q, A> {
    /// `ask` is called with one's own question and those of others, or not at all; it gives the answers in their order.
    /// `None`: somebody asked, and has no answer to this one, so that it is better asked alone.
    pub async fn answer(
        self: &Arc<Self>,
        question: Q,
        ask: impl AsyncFnOnce(Vec<Q>) -> Vec<Option<A>>,
    ) -> Option<A> {
        let mut batch = match self.come(question) {
            Ok(batch) => batch,
            Err((ticket, turn)) => match self.wait(ticket, turn).await? {
                Turn::Answer(answer) => return Some(answer),
                Turn::Ask(batch) => batch,
            },
        };
        let mut answers = ask(std::mem::take(&mut batch.questions)).await.into_iter();
        let own = answers.next().flatten();
        for (other, answer) in batch.others.drain(..).zip(answers) {
            if let Some(answer) = answer {
                let _it_may_have_left = other.send(Turn::Answer(answer));
            }
        }
        own
    }

    fn come(self: &Arc<Self>, question: Q) -> Result<Batch<Q, A>, (u64, Hear<Q, A>)> {
        let mut inside = self.lock();
        if inside.asking == 0 {
            inside.asking = 1;
            drop(inside);
            return Ok(Batch { gather: self.clone(), questions: vec![question], others: Vec::new() });
        }
        let (turn, receiver) = oneshot::channel();
        let ticket = inside.tickets;
        inside.tickets += 1;
        inside.waiting.push(Waiting { ticket, question, turn });
        Err((ticket, receiver))
    }

    async fn wait(self: &Arc<Self>, ticket: u64, mut turn: Hear<Q, A>) -> Option<Turn<Q, A>> {
        match timeout(PATIENCE, &mut turn).await {
            Ok(turn) => turn.ok(),
            Err(_) => match self.lead_from(ticket) {
                Some(batch) => Some(Turn::Ask(batch)),
                // It is being asked for already.
                None => turn.await.ok(),
            },
        }
    }

    /// For who still waits: those who came before it are as impatient, and lead on their own.
    fn lead_from(self: &Arc<Self>, ticket: u64) -> Option<Batch<Q, A>> {
        let mut inside = self.lock();
        let place = inside.waiting.iter().position(|one| one.ticket == ticket)?;
        inside.asking += 1;
        let mut rest = inside.waiting.split_off(place);
        let batch = self.batch(&mut rest);
        inside.waiting.append(&mut rest);
        batch.map(|(batch, _own_turn)| batch)
    }

    /// Of the first who wait.
    fn batch(self: &Arc<Self>, waiting: &mut Vec<Waiting<Q, A>>) -> Option<(Batch<Q, A>, Tell<Q, A>)> {
        let together = waiting.len().min(TOGETHER_MAX);
        let mut together = waiting.drain(..together);
        let first = together.next()?;
        let (mut questions, mut others) = (vec![first.question], Vec::new());
        for one in together {
            questions.push(one.question);
            others.push(one.turn);
        }
        Some((Batch { gather: self.clone(), questions, others }, first.turn))
    }

    /// The next one asks for all who have come meanwhile.
    fn hand_on(self: &Arc<Self>) {
        let mut inside = self.lock();
        let next = if inside.asking > 1 { None } else { self.batch(&mut inside.waiting) };
        let Some((batch, turn)) = next else {
            inside.asking -= 1;
            return;
        };
        drop(inside);
        // Who has left drops it, which hands it on.
        let _left = turn.send(Turn::Ask(batch));
    }

    fn lock(&self) -> MutexGuard<'_, Inside<Q, A>> {
        self.inside.lock()
    }
}

impl<Q, A> Drop for Batch<Q, A> {
    fn drop(&mut self) {
        self.gather.clone().hand_on();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::task::yield_now;

    use super::*;

    type Doubles = Arc<Gather<u32, u32>>;

    /// Doubles each, after a while; notes how many were asked for together.
    async fn double(gather: &Doubles, asked: &Mutex<Vec<usize>>, number: u32) -> Option<u32> {
        let ask = async |numbers: Vec<u32>| {
            asked.lock().push(numbers.len());
            yield_now().await;
            numbers.into_iter().map(|number| Some(number * 2)).collect()
        };
        gather.answer(number, ask).await
    }

    #[tokio::test]
    async fn concurrent_questions_are_asked_together() {
        let (gather, asked) = (Doubles::default(), Mutex::default());
        assert_eq!(double(&gather, &asked, 7).await, Some(14));
        let answers = join_all((0..100).map(|number| double(&gather, &asked, number))).await;
        assert_eq!(answers, (0..100).map(|number| Some(number * 2)).collect::<Vec<_>>());
        assert_eq!(*asked.lock(), [1, 1, 64, 99 - 64]);
        assert_eq!(gather.lock().asking, 0);
    }

    #[tokio::test]
    async fn an_answer_that_is_missing_is_nobody_else_s() {
        let gather = Doubles::default();
        let even = async |numbers: Vec<u32>| {
            yield_now().await;
            numbers.into_iter().map(|number| (number % 2 == 0).then_some(number)).collect()
        };
        let answers = join_all((0..5).map(|number| gather.answer(number, even))).await;
        assert_eq!(answers, [Some(0), None, Some(2), None, Some(4)]);
        let none = async |_: Vec<u32>| Vec::new();
        assert_eq!(join_all((0..3).map(|number| gather.answer(number, none))).await, [None; 3]);
        assert_eq!(gather.lock().asking, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_answer_does_not_come_holds_nobody_up_for_long() {
        let (gather, asked) = (Doubles::default(), Mutex::default());
        let stuck = gather.answer(0, async |_| std::future::pending().await);
        let others = async {
            let begun = tokio::time::Instant::now();
            let answers = join_all((1..4).map(|number| double(&gather, &asked, number))).await;
            (answers, begun.elapsed())
        };
        let (answers, took) = tokio::select! {
            _ = stuck => unreachable!(),
            others = others => others,
        };
        assert_eq!(answers, [Some(2), Some(4), Some(6)]);
        assert!(took < PATIENCE * 2, "{took:?}");
        // What is dropped gives its turn back.
        assert_eq!(gather.lock().asking, 0);
        assert_eq!(double(&gather, &asked, 5).await, Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_before_its_turn_hands_it_on_and_who_asked_with_it_asks_alone() {
        let (gather, asked) = (Doubles::default(), Mutex::default());
        let (begin, begun) = oneshot::channel::<()>();
        let first = gather.answer(0, async |numbers: Vec<u32>| {
            let _sender_is_kept = begun.await;
            numbers.into_iter().map(Some).collect()
        });
        let mut first = Box::pin(first);
        let mut leaves = Box::pin(double(&gather, &asked, 1));
        let mut stays = Box::pin(double(&gather, &asked, 2));
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert!(futures_util::poll!(leaves.as_mut()).is_pending());
        assert!(futures_util::poll!(stays.as_mut()).is_pending());
        begin.send(()).unwrap();
        assert_eq!(first.await, Some(0));
        // Its turn has come, and it is not there to take it.
        drop(leaves);
        assert_eq!(stays.await, None);
        assert_eq!(gather.lock().asking, 0);
        assert_eq!(double(&gather, &asked, 3).await, Some(6));
    }
}
