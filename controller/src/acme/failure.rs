//! Why there is no certificate, and how long to wait before the next try: an issuer counts what it refuses, and shuts out
//! whoever goes on asking.

use std::time::Duration;

use instant_acme::{Error, Problem};
use jetway_service::client::root_cause;

use crate::db::DbError;

/// Characters of an issuer's words that are kept.
const SAID_CHARS_MAX: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It does not answer, or has a fault of its own.
    #[error("the issuer cannot be reached: {0}")]
    Away(String),
    #[error("the issuer refuses: {0}")]
    Refused(String),
    #[error("the issuer has had enough of us for now: {said}")]
    RateLimited { said: String, retry_after: Option<Duration> },
    /// It has forgotten our account: the next try makes another one.
    #[error("the issuer does not know our account: {0}")]
    NoAccount(String),
    /// It did not take a number that it gave itself, again and again (RFC 8555 §6.5).
    #[error("the issuer refuses its own nonces: {0}")]
    BadNonce(String),
    #[error("what is kept of it cannot be used: {0}")]
    Unusable(String),
    #[error(transparent)]
    Database(#[from] DbError),
}

const AWAY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));
/// Let's Encrypt counts five failed validations of a host in an hour, and then no more: 5, 10, 20, 40 minutes stay below that.
const REFUSED: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(6 * 3600));
const RATE_LIMITED: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
const SOON: Duration = Duration::from_secs(1);

impl Failure {
    pub fn of(error: Error, retry_after: Option<Duration>) -> Self {
        match error {
            Error::Api(problem) => Self::of_problem(&problem, retry_after),
            Error::Json(error) => Failure::Away(format!("what it answers is not ACME's ({error})")),
            Error::Timeout(_) => Failure::Away("it has not decided in time".to_owned()),
            error @ (Error::Crypto | Error::KeyRejected) => Failure::Unusable(error.to_string()),
            error @ Error::Unsupported(_) => Failure::Refused(error.to_string()),
            error => Failure::Away(root_cause(&error)),
        }
    }

    fn of_problem(problem: &Problem, retry_after: Option<Duration>) -> Self {
        let said = said(problem);
        let kind = problem.r#type.as_deref().unwrap_or_default();
        match kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind) {
            "rateLimited" => Failure::RateLimited { said, retry_after },
            "accountDoesNotExist" => Failure::NoAccount(said),
            "serverInternal" => Failure::Away(said),
            "badNonce" => Failure::BadNonce(said),
            _ if matches!(problem.status, Some(500..)) => Failure::Away(said),
            _ => Failure::Refused(said),
        }
    }

    /// Until the next try, after so many failures in a row before this one.
    pub fn wait(&self, failures: u32) -> Duration {
        let (first, max) = match self {
            Failure::RateLimited { retry_after: Some(wait), .. } => {
                return (*wait).clamp(RATE_LIMITED.0 / 60, RATE_LIMITED.1);
            }
            Failure::RateLimited { retry_after: None, .. } => RATE_LIMITED,
            Failure::NoAccount(_) | Failure::BadNonce(_) if failures == 0 => return SOON,
            Failure::Away(_) | Failure::NoAccount(_) | Failure::BadNonce(_) | Failure::Database(_) => AWAY,
            Failure::Refused(_) | Failure::Unusable(_) => REFUSED,
        };
        first.saturating_mul(1 << failures.min(16)).min(max)
    }
}

/// The problem (RFC 9457) and those of single names, in one line.
pub fn said(problem: &Problem) -> String {
    let mut said = problem.detail.clone().unwrap_or_else(|| problem.r#type.clone().unwrap_or_default());
    for part in &problem.subproblems {
        said = format!("{said}; {part}");
    }
    said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, status: u16, retry_after: Option<u64>) -> Failure {
        let problem = format!(r#"{{"type":"{kind}","detail":"a\nb","status":{status}}}"#);
        Failure::of_problem(&serde_json::from_str(&problem).unwrap(), retry_after.map(Duration::from_secs))
    }

    #[test]
    fn how_long_to_wait_follows_from_what_was_said() {
        let acme = |kind: &str| format!("urn:ietf:params:acme:error:{kind}");
        let minutes = |failure: &Failure| [0, 1, 2, 3, 30].map(|n| failure.wait(n).as_secs() / 60);
        let unauthorized = of(&acme("unauthorized"), 403, None);
        assert_eq!(minutes(&unauthorized), [5, 10, 20, 40, 360]);
        assert_eq!(unauthorized.to_string(), "the issuer refuses: a b");
        assert_eq!(minutes(&of(&acme("rateLimited"), 429, None)), [60, 120, 240, 480, 1440]);
        assert_eq!(minutes(&of(&acme("rateLimited"), 429, Some(7200))), [120; 5]);
        assert_eq!(minutes(&of(&acme("rateLimited"), 429, Some(0))), [1; 5], "not at once, whatever it says");
        assert_eq!(minutes(&of(&acme("rateLimited"), 429, Some(1 << 40))), [1440; 5]);
        assert_eq!(minutes(&of(&acme("serverInternal"), 500, None)), [0, 1, 2, 4, 60]);
        assert_eq!(minutes(&of("about:blank", 503, None)), [0, 1, 2, 4, 60]);
        assert_eq!(minutes(&of(&acme("badNonce"), 400, None)), [0, 1, 2, 4, 60]);
        assert_eq!(of(&acme("badNonce"), 400, None).wait(0), SOON);
        let forgotten = of(&acme("accountDoesNotExist"), 400, None);
        assert_eq!((forgotten.wait(0), forgotten.wait(1).as_secs()), (SOON, 60), "at once, but only once");
        let html = serde_json::from_str::<serde_json::Value>("<html>").unwrap_err();
        assert!(matches!(Failure::of(Error::Json(html), None), Failure::Away(_)));
    }
}
