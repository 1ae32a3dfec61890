//! What the engine's answers and failures mean: refused, absent, unreachable, or nothing known. No
//! connection here.

use std::future::Future;
use std::time::Duration;

use bollard::errors::Error as DockerError;
use serde_json::Value;

use crate::runtime::RuntimeError;

/// An engine that does not answer a call in this time has failed it. Removing a large container takes seconds.
pub const CALL_DEADLINE: Duration = Duration::from_secs(60);

/// A call of bollard's with our deadline and our errors.
pub async fn bounded<T>(call: impl Future<Output = Result<T, DockerError>>) -> Result<T, RuntimeError> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(outcome) => outcome.map_err(|error| meaning(&error)),
        Err(_) => Err(no_answer(CALL_DEADLINE)),
    }
}

/// What a failed call means for the caller: that it is refused, that there is nothing, or that nothing is known.
pub fn meaning(error: &DockerError) -> RuntimeError {
    match error {
        DockerError::DockerResponseServerError { status_code, message } => {
            meaning_of_status(*status_code, message)
        }
        other if is_unreachable(other) => RuntimeError::Unreachable(chain(other)),
        other => RuntimeError::Engine(chain(other)),
    }
}

pub fn meaning_of_status(status: u16, message: &str) -> RuntimeError {
    let message = message.trim().to_owned();
    match status {
        404 if message.contains("o such container") => RuntimeError::Absent,
        400..=499 => RuntimeError::Refused(message),
        _ if is_refusal(&message) => RuntimeError::Refused(message),
        _ => RuntimeError::Engine(message),
    }
}

/// Docker answers 500 to much that will never work.
fn is_refusal(message: &str) -> bool {
    [
        "OCI runtime create failed",
        "unable to find user",
        "no matching entries in",
        "storage-opt",
        "Invalid address",
        "unknown or invalid runtime name",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

pub fn no_answer(deadline: Duration) -> RuntimeError {
    RuntimeError::Engine(format!("no answer in {} s", deadline.as_secs()))
}

pub fn broken(error: &reqwest::Error) -> RuntimeError {
    if is_unreachable(error) {
        RuntimeError::Unreachable(chain(error))
    } else {
        RuntimeError::Engine(chain(error))
    }
}

/// Whether nobody listens, or the connection broke before an answer was whole: no word of the engine's.
pub fn is_unreachable(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(DockerError::SocketNotFoundError(_)) = error.downcast_ref() {
            return true;
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_closed() || error.is_canceled())
        {
            return true;
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && matches!(
                error.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::NotConnected
                    | ErrorKind::UnexpectedEof
                    | ErrorKind::NotFound
            )
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// An error with what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_means_one_thing() {
        assert!(matches!(meaning_of_status(404, "No such container: x"), RuntimeError::Absent));
        assert!(matches!(meaning_of_status(404, "No such image: x"), RuntimeError::Refused(_)));
        assert!(matches!(meaning_of_status(400, "bad"), RuntimeError::Refused(_)));
        assert!(matches!(meaning_of_status(500, "disk on fire"), RuntimeError::Engine(_)));
        assert!(matches!(
            meaning_of_status(500, "OCI runtime create failed: no such user"),
            RuntimeError::Refused(_)
        ));
    }
}
