//! Why the proxy answers by itself, and the wording of it: code, error of RFC 9209, a sentence.

use std::time::Duration;

use jetway_protocol::error::Code;
use jetway_protocol::ids::{BackendId, PortName};
use jetway_protocol::status::{End, EndReason};
use jetway_service::lines::Lines;

use crate::attach::{Closed, NotAdmitted};
use crate::headers::Unwritable;
use crate::limits::shares::Refused;
use crate::tunnel::close_code::CloseCode;

/// Warnings of one process: such requests in a loop must not fill the disk.
static UNWRITABLE: Lines = Lines::new(20, Duration::from_secs(10));

/// Why the proxy answers by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    BadRequest(&'static str),
    /// `/`, where no redirect is set.
    Root,
    /// An issuer of certificates asks for a token that no order has.
    NoChallenge,
    TokenInvalid,
    /// A page of a session asked for a path that begins with `/`, and so left its token behind.
    AbsolutePath,
    /// A browser asks every host for one.
    NoIcon,
    TokenExpired,
    TokenRevoked,
    /// Nothing lets this browser in at a session's host.
    NoSession,
    /// A page of another origin, which the connect has not listed.
    OtherOrigin,
    /// Below `/.jetway/` on a session's host, and nothing is there.
    NoRoute,
    /// A service worker's script that the application compresses though it was asked not to.
    EncodedWorker,
    Ended(End),
    /// With the reason, where its drone says it.
    Stopping(Option<EndReason>),
    Unknown,
    /// No session is served under this host, or not this one.
    WrongHost,
    /// The connection was opened for another host.
    Misdirected(&'static str),
    /// A person has waited long enough without a word.
    Waiting,
    NotReady,
    DroneSilent,
    Busy,
    /// The client, or the token, has as much open as it may.
    TooManyOpen,
    /// The client, or the token, has asked as often as it may; it may again after so long.
    TooManyRequests(Duration),
    /// The client's body is framed as none is, or ended too early.
    BadBody,
    /// The client stopped in the middle of its request's body.
    BodyPaused,
    /// The proxy does not know its installation yet.
    NoInstallation,
    Refused,
    ConnectTimeout,
    ResponseTimeout,
    /// It broke off before it had answered.
    Terminated,
    /// Its answer is malformed, or can be read in two ways.
    BadAnswer,
    /// It switched protocols without having been asked to.
    UnaskedUpgrade,
    /// It sent interim answers without end.
    TooManyInterim,
    /// It answered the wish for a WebSocket with something that is neither that nor a refusal.
    NotSwitched,
    /// The page is none that may open a WebSocket.
    WrongOrigin,
    /// The ports that there are, for the message.
    PortUnknown(Vec<PortName>),
    Internal(&'static str),
}

/// One problem in every form that it is told in.
pub struct Wording {
    pub code: Code,
    /// The error's type of RFC 9209 §2.3.
    pub proxy_error: &'static str,
    pub message: String,
    pub retry: bool,
}

impl Problem {
    #[expect(clippy::too_many_lines, reason = "a table: an arm a problem, nothing to follow")]
    pub fn told(&self) -> Wording {
        let told = |code, proxy_error, message: &str, retry| Wording {
            code,
            proxy_error,
            message: message.into(),
            retry,
        };
        match self {
            Problem::BadRequest(message) => told(Code::BadRequest, "http_request_error", message, false),
            Problem::Root => told(
                Code::BadRequest,
                "http_request_error",
                "no session lives here; its URL begins with /<token>/",
                false,
            ),
            Problem::NoChallenge => told(
                Code::RouteNotFound,
                "http_request_error",
                "no certificate is on order here by this token",
                false,
            ),
            Problem::TokenInvalid => told(
                Code::TokenInvalid,
                "http_request_denied",
                "this URL carries no valid token; ask for a new one",
                false,
            ),
            Problem::AbsolutePath => told(
                Code::TokenInvalid,
                "http_request_denied",
                "the application asked for an absolute path, and so for nothing of its session: its pages must use relative paths \
                 (app.js, not /app.js), or know the prefix of x-verified-path",
                false,
            ),
            Problem::NoIcon => told(
                Code::RouteNotFound,
                "destination_not_found",
                "the proxy has no icon of its own; a session's is below the session's URL",
                false,
            ),
            Problem::TokenExpired => told(
                Code::TokenExpired,
                "http_request_denied",
                "this URL has expired; ask for a new one",
                false,
            ),
            Problem::TokenRevoked => {
                told(Code::TokenRevoked, "http_request_denied", "access by this URL was taken back", false)
            }
            Problem::NoSession => told(
                Code::TokenInvalid,
                "http_request_denied",
                "this browser has not been let in here, or not any more; open it from where you started it",
                false,
            ),
            Problem::OtherOrigin => told(
                Code::WrongOrigin,
                "http_request_denied",
                "a page of another address asks for this; the connect lists those that may (allowed_origins)",
                false,
            ),
            Problem::NoRoute => told(
                Code::RouteNotFound,
                "destination_not_found",
                "paths below /.jetway/ are the proxy's, and it has none of this name",
                false,
            ),
            Problem::EncodedWorker => told(
                Code::BackendFailed,
                "http_protocol_error",
                "the session compresses a service worker's script, though it was asked for it without",
                false,
            ),
            Problem::Ended(end) => {
                let message = match end.message.as_str() {
                    "" => "this session has ended; ask for a new one".to_owned(),
                    why => format!("this session has ended ({why}); ask for a new one"),
                };
                Wording {
                    code: Code::BackendEnded,
                    proxy_error: "destination_unavailable",
                    message,
                    retry: false,
                }
            }
            Problem::Stopping(_) => told(
                Code::BackendEnded,
                "destination_unavailable",
                "this session is ending; ask for a new one",
                false,
            ),
            Problem::Unknown => told(
                Code::TokenInvalid,
                "destination_not_found",
                "this session is not known any more; ask for a new one",
                false,
            ),
            Problem::WrongHost => told(
                Code::WrongHost,
                "http_request_denied",
                "this URL leads nowhere under this host name; open it as it was given",
                false,
            ),
            Problem::Misdirected(message) => told(Code::Misdirected, "http_request_denied", message, false),
            Problem::Waiting => {
                told(Code::BackendNotReady, "connection_timeout", "this session is starting", true)
            }
            Problem::NotReady => told(
                Code::BackendNotReady,
                "connection_timeout",
                "this session is still starting; try again",
                true,
            ),
            Problem::DroneSilent => told(
                Code::BackendNotReady,
                "destination_unavailable",
                "the host of this session does not answer; try again",
                true,
            ),
            Problem::Busy => {
                told(Code::Busy, "connection_limit_reached", "too many requests wait; try again", true)
            }
            Problem::TooManyOpen => told(
                Code::TooManyRequests,
                "connection_limit_reached",
                "too much is open at a time; close something, or try again",
                true,
            ),
            Problem::TooManyRequests(wait) => told(
                Code::TooManyRequests,
                "http_request_denied",
                &format!("too many requests a second; try again in {} ms", wait.as_millis() + 1),
                true,
            ),
            Problem::BadBody => told(
                Code::BadRequest,
                "http_request_error",
                "the request's body is malformed, or ended too early; send it again, with a length or in chunks",
                false,
            ),
            Problem::BodyPaused => told(
                Code::RequestTimeout,
                "http_request_error",
                "the request's body stopped coming; send it again",
                false,
            ),
            Problem::NoInstallation => told(
                Code::ProxyNotReady,
                "proxy_internal_error",
                "the proxy has not reached a controller since its start; try again",
                true,
            ),
            Problem::Refused => told(
                Code::BackendUnreachable,
                "connection_refused",
                "the session accepts no connection; try again",
                true,
            ),
            Problem::ConnectTimeout => told(
                Code::BackendUnreachable,
                "connection_timeout",
                "the session accepts no connection in time; try again",
                true,
            ),
            Problem::ResponseTimeout => told(
                Code::BackendTimeout,
                "http_response_timeout",
                "the session took the request and did not answer",
                false,
            ),
            Problem::Terminated => told(
                Code::BackendFailed,
                "connection_terminated",
                "the session broke off before it had answered",
                false,
            ),
            Problem::BadAnswer => told(
                Code::BackendFailed,
                "http_protocol_error",
                "the session's answer is malformed, or its head is larger than 64 KiB; the proxy's documentation \
                 lists what it refuses",
                false,
            ),
            Problem::UnaskedUpgrade => told(
                Code::BackendFailed,
                "http_protocol_error",
                "the session switched protocols without having been asked to",
                false,
            ),
            Problem::TooManyInterim => told(
                Code::BackendFailed,
                "http_protocol_error",
                "the session sent too many interim answers (1xx) and no answer",
                false,
            ),
            Problem::NotSwitched => told(
                Code::BackendFailed,
                "http_protocol_error",
                "the session did not open the WebSocket as it was asked to",
                false,
            ),
            Problem::WrongOrigin => told(
                Code::WrongOrigin,
                "http_request_denied",
                "this page may not open a WebSocket to the session; the connect lists those that may",
                false,
            ),
            Problem::PortUnknown(there_are) => {
                let names: Vec<&str> = there_are.iter().map(PortName::as_str).collect();
                let message = match names.as_slice() {
                    [] => "this session has no ports with names; executable.ports gives it some".to_owned(),
                    names => format!("this session has no port of this name; it has {}", names.join(", ")),
                };
                Wording {
                    code: Code::PortUnknown,
                    proxy_error: "destination_not_found",
                    message,
                    retry: false,
                }
            }
            Problem::Internal(message) => told(Code::Internal, "proxy_internal_error", message, false),
        }
    }
}

impl Problem {
    /// Why the session ends or has ended, where that is the problem and is known.
    pub fn end_reason(&self) -> Option<EndReason> {
        match self {
            Problem::Ended(end) => Some(end.reason),
            Problem::Stopping(reason) => *reason,
            _ => None,
        }
    }

    /// The close code for a WebSocket, instead of an answer that its page could not see.
    pub fn close_code(&self) -> Option<CloseCode> {
        match self {
            Problem::Ended(_) | Problem::Stopping(_) | Problem::Unknown => {
                Some(CloseCode::Ended(self.end_reason()))
            }
            Problem::TokenRevoked => Some(CloseCode::Revoked),
            Problem::Busy => Some(CloseCode::ComeLater),
            _ => None,
        }
    }
}

impl From<NotAdmitted> for Problem {
    fn from(reason: NotAdmitted) -> Self {
        match reason {
            NotAdmitted::Ended(end) => Problem::Ended(end),
            NotAdmitted::Unknown => Problem::Unknown,
            NotAdmitted::Revoked => Problem::TokenRevoked,
            NotAdmitted::Stopping(reason) => Problem::Stopping(reason),
            NotAdmitted::TimedOut { drone_answers: true } => Problem::NotReady,
            NotAdmitted::TimedOut { drone_answers: false } => Problem::DroneSilent,
            NotAdmitted::Busy | NotAdmitted::Retired => Problem::Busy,
        }
    }
}

impl From<Refused> for Problem {
    fn from(why: Refused) -> Self {
        match why {
            Refused::TooManyOpen => Problem::TooManyOpen,
            Refused::TooManyRequests(wait) => Problem::TooManyRequests(wait),
        }
    }
}

impl From<Closed> for Problem {
    fn from(why: Closed) -> Self {
        match why {
            Closed::Ended(end) => Problem::Ended(end),
            Closed::Revoked => Problem::TokenRevoked,
        }
    }
}

/// No header can hold a value that the backend should get with a request.
pub fn unwritable(backend: &BackendId, reason: &Unwritable) -> Problem {
    if let Some(left_out) = UNWRITABLE.tell() {
        tracing::warn!(%backend, %reason, left_out, "a request that no header can tell of");
    }
    Problem::Internal("what the application should be told of you cannot be written as a header")
}
