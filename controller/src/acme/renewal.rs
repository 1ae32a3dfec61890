//! When a certificate is to be renewed: after two thirds of its time, half of it where that is short, or when its issuer would like it
//! (ARI, RFC 9773).

use std::time::Duration;

use instant_acme::{Account, Error};
use jetway_protocol::time::UnixMicros;
use rand::Rng;

use super::{Issued, issued};

const SHORT: Duration = Duration::from_secs(10 * 86_400);
/// Of its time: so that many are not renewed together.
const SPREAD: f64 = 0.05;
/// Between two questions to an issuer that answers them (RFC 9773 §4.3.2), and the one after no answer.
const ASK_EVERY: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(86_400);
const ASK_AFTER_FAILURE: Duration = Duration::from_secs(6 * 3600);

/// Without a word of the issuer's.
pub fn due(issued: &Issued) -> UnixMicros {
    let time = Duration::from_micros(issued.not_after.since(issued.not_before));
    let part = if time < SHORT { 0.5 } else { 2.0 / 3.0 };
    let part = part - rand::rng().random_range(0.0..=SPREAD);
    after(issued.not_before, time.mul_f64(part))
}

fn after(time: UnixMicros, wait: Duration) -> UnixMicros {
    UnixMicros(time.0.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
}

/// An issuer's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Window { start: UnixMicros, end: UnixMicros, ask_again: Duration },
    None { ask_again: Duration },
}

pub async fn ask(account: &Account, chain: &str) -> Word {
    let Some(identifier) = issued::identifier(chain) else {
        return Word::None { ask_again: *ASK_EVERY.end() };
    };
    match account.renewal_info(&identifier).await {
        Ok((info, wait)) => {
            let micros = |time: i128| UnixMicros(i64::try_from(time / 1000).unwrap_or(i64::MAX));
            let window = info.suggested_window;
            let (start, end) =
                (micros(window.start.unix_timestamp_nanos()), micros(window.end.unix_timestamp_nanos()));
            word(start, end, wait)
        }
        Err(Error::Unsupported(_)) => Word::None { ask_again: *ASK_EVERY.end() },
        Err(error) => {
            tracing::debug!(%error, "the issuer does not say when to renew");
            Word::None { ask_again: ASK_AFTER_FAILURE }
        }
    }
}

/// A window that ends before it begins is none (RFC 9773 §4.2).
fn word(start: UnixMicros, end: UnixMicros, wait: Duration) -> Word {
    if end <= start {
        return Word::None { ask_again: ASK_AFTER_FAILURE };
    }
    Word::Window { start, end, ask_again: wait.clamp(*ASK_EVERY.start(), *ASK_EVERY.end()) }
}

/// A moment of the window, any as likely as the other.
pub fn moment(start: UnixMicros, end: UnixMicros) -> UnixMicros {
    UnixMicros(rand::rng().random_range(start.0..=end.0.max(start.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400 * 1_000_000;

    #[test]
    fn a_certificate_is_renewed_long_before_its_end() {
        for (days, earliest, latest) in [(90, 0.61, 0.67), (6, 0.44, 0.51)] {
            let issued = Issued {
                chain: String::new(),
                key: String::new(),
                not_before: UnixMicros(DAY),
                not_after: UnixMicros((1 + days) * DAY),
            };
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            let share = (due(&issued).0 - DAY) as f64 / (days * DAY) as f64;
            assert!((earliest..latest).contains(&share), "{days} days: {share}");
        }
    }

    #[test]
    fn a_window_that_is_none_is_not_believed_and_questions_are_paced() {
        let at = UnixMicros;
        let again = |seconds| match word(at(1), at(2), Duration::from_secs(seconds)) {
            Word::Window { ask_again, .. } => ask_again.as_secs(),
            Word::None { .. } => panic!("a window"),
        };
        assert_eq!([again(0), again(3600), again(1 << 40)], [60, 3600, 86_400]);
        for (start, end) in [(2, 2), (3, 2)] {
            assert!(matches!(word(at(start), at(end), Duration::ZERO), Word::None { .. }));
        }
        for _ in 0..100 {
            assert!((5..=9).contains(&moment(at(5), at(9)).0));
        }
    }
}
