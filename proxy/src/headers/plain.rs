//! Heads that the rules change nothing in: which lines pass as they came, and what is set behind them. A line that any rule of
//! `request` or `response` speaks of is [`Line::Ruled`] here, and left to those.

use http::header::HeaderMap;

use super::forwarded::{self, Forwarding};
use super::request::{Unwritable, VERIFIED_PATH};
use super::response::{BACKEND_ID, CORS, EVERY_ORIGIN, POLICY};
use super::standing::Standing;
use super::{Ours, ours};

/// The longest name that a rule speaks of by all of its letters.
const RULED_BYTES_MAX: usize = 32;

/// What one line of a request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    Passes,
    /// It says what goes without saying.
    Dropped,
    /// At most once.
    Cookie,
    /// Exactly once.
    Host,
    /// Of a body. At most once.
    Length,
    /// What a forwarder says of others, spelled as usual.
    Forwarding,
    Ruled,
}

/// What one line of an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerLine {
    Passes,
    Length,
    Encoding,
    Connection,
    Date,
    /// The application's own word on the referrer, or on other origins.
    Policy,
    Cors,
    Ruled,
}

/// In small letters, if it is short enough for a rule.
struct Lower {
    bytes: [u8; RULED_BYTES_MAX],
    length: usize,
}

impl Lower {
    fn of(name: &str) -> Option<Self> {
        let (mut bytes, length) = ([0; RULED_BYTES_MAX], name.len());
        bytes.get_mut(..length)?.copy_from_slice(name.as_bytes());
        bytes.make_ascii_lowercase();
        Some(Self { bytes, length })
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

pub fn line(name: &str, value: &[u8]) -> Line {
    if name.starts_with(['x', 'X', 'f', 'F'])
        && let Some(ours) = ours(&name.to_ascii_lowercase())
    {
        return match ours {
            Ours::Forwarding { spelled_as_usual: true } => Line::Forwarding,
            _ => Line::Ruled,
        };
    }
    let Some(lower) = Lower::of(name) else { return Line::Passes };
    match lower.text() {
        b"host" => Line::Host,
        b"cookie" => Line::Cookie,
        b"content-length" => Line::Length,
        b"connection" if value.eq_ignore_ascii_case(b"keep-alive") => Line::Dropped,
        // Bodies that end somewhere else, trailers, other protocols, and what concerns one connection (RFC 9110 §7.6.1).
        b"connection"
        | b"keep-alive"
        | b"proxy-connection"
        | b"proxy-authorization"
        | b"transfer-encoding"
        | b"upgrade"
        | b"http2-settings"
        | b"te"
        | b"trailer"
        | b"expect" => Line::Ruled,
        _ => Line::Passes,
    }
}

pub fn answer_line(name: &str) -> AnswerLine {
    let Some(lower) = Lower::of(name) else { return AnswerLine::Passes };
    match lower.text() {
        b"content-length" => AnswerLine::Length,
        b"transfer-encoding" => AnswerLine::Encoding,
        b"connection" => AnswerLine::Connection,
        b"date" => AnswerLine::Date,
        b"referrer-policy" => AnswerLine::Policy,
        b"access-control-allow-origin"
        | b"access-control-allow-methods"
        | b"access-control-allow-headers" => AnswerLine::Cors,
        b"keep-alive"
        | b"proxy-connection"
        | b"proxy-authorization"
        | b"upgrade"
        | b"http2-settings"
        | b"set-cookie"
        | b"service-worker-allowed"
        | b"clear-site-data"
        | b"nel"
        | b"report-to"
        | b"alt-svc"
        | b"strict-transport-security"
        | b"x-plane-backend-id" => AnswerLine::Ruled,
        _ => AnswerLine::Passes,
    }
}

/// A Content-Length (RFC 9110 §8.6), and no list of them.
pub fn length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

pub fn write_line(text: &mut Vec<u8>, name: &str, value: &[u8]) {
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

pub fn write_all(text: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        write_line(text, name.as_str(), value.as_bytes());
    }
}

/// What a backend is told behind a client's own lines. `said`: what a forwarder has said of others.
pub fn tell_backend(
    text: &mut Vec<u8>,
    standing: &Standing,
    verified_path: &str,
    said: &mut HeaderMap,
    forwarding: &Forwarding<'_>,
) -> Result<(), Unwritable> {
    text.extend_from_slice(standing.written());
    if forwarding.peer.trusted {
        forwarded::tell(said, forwarding)?;
        write_all(text, said);
    }
    write_line(text, VERIFIED_PATH.as_str(), verified_path.as_bytes());
    Ok(())
}

/// What a client is told behind a backend's own lines, that have named these already.
pub fn tell_client(text: &mut Vec<u8>, backend: &[u8], has_policy: bool, has_cors: bool) {
    write_line(text, BACKEND_ID.as_str(), backend);
    if !has_policy {
        write_line(text, "referrer-policy", POLICY.as_bytes());
    }
    if !has_cors {
        for (name, value) in CORS.iter().zip(EVERY_ORIGIN) {
            write_line(text, name.as_str(), value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::super::response::WHOLE_ORIGIN;
    use super::super::{HOP_BY_HOP, is_hop_by_hop, is_ours, to_client};
    use super::*;

    fn spelled(name: &str) -> [String; 3] {
        let title =
            name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect::<Vec<_>>().join("-");
        [name.to_owned(), name.to_uppercase(), title]
    }

    #[test]
    fn no_line_that_a_rule_speaks_of_passes() {
        let others = [http::header::TE, http::header::EXPECT, http::header::TRAILER];
        for name in HOP_BY_HOP.iter().chain(&others) {
            for spelling in spelled(name.as_str()) {
                assert_eq!(line(&spelling, b"x, close"), Line::Ruled, "{spelling}");
            }
        }
        let confined = [http::header::SET_COOKIE];
        for name in HOP_BY_HOP.iter().chain(&WHOLE_ORIGIN).chain(&confined).chain(&CORS) {
            for spelling in spelled(name.as_str()) {
                assert_ne!(answer_line(&spelling), AnswerLine::Passes, "{spelling}");
            }
        }
        assert_eq!(line("Connection", b"Keep-Alive"), Line::Dropped);
        assert_eq!(line("X-Forwarded-For", b"1.2.3.4"), Line::Forwarding);
        assert_eq!(line("Forwarded", b"for=1.2.3.4"), Line::Forwarding);
        for name in ["X-Verified-Secret", "x_verified_secret", "X_Forwarded-For", "x.forwarded.proto"] {
            assert_eq!(line(name, b""), Line::Ruled, "{name}");
        }
        for name in ["Accept", "Cookie2", "X-Requested-With", "From", "Sec-Fetch-Mode", "If-None-Match"] {
            assert_eq!(line(name, b""), Line::Passes, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_what_the_rules_leave_alone(name in "(x|X|f|F|h|t)?[-_.a-zA-Z0-9]{0,40}") {
            let Ok(known) = HeaderName::from_bytes(name.as_bytes()) else { return Ok(()) };
            let is_left = !is_hop_by_hop(&known) && !is_ours(&known, false) && known != http::header::TE;
            if line(&name, b"") == Line::Passes {
                prop_assert!(is_left, "{name}");
            }
            if answer_line(&name) == AnswerLine::Passes {
                let mut headers = HeaderMap::new();
                headers.insert(&known, HeaderValue::from_static("v"));
                let shared = super::super::Shared { prefix: "/t", asked: "/t/a", path_is_kept: false };
                to_client(&mut headers, &HeaderValue::from_static("b"), Some(&shared), None);
                prop_assert!(headers.get(&known).is_some_and(|value| value == "v"), "{name}");
            }
        }
    }

    #[test]
    fn a_client_is_told_what_the_rules_tell_it() {
        for (policy, cors) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut by_rule = HeaderMap::new();
            if policy {
                by_rule.insert("referrer-policy", HeaderValue::from_static("origin"));
            }
            if cors {
                by_rule.insert("access-control-allow-origin", HeaderValue::from_static("https://a"));
            }
            let (mut written, mut expect) = (Vec::new(), Vec::new());
            write_all(&mut written, &by_rule);
            tell_client(&mut written, b"b-1", policy, cors);
            to_client(&mut by_rule, &HeaderValue::from_static("b-1"), None, None);
            write_all(&mut expect, &by_rule);
            let lines = |text: &[u8]| {
                let text = String::from_utf8(text.to_vec()).unwrap();
                text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
            };
            assert_eq!(lines(&written), lines(&expect), "{policy} {cors}");
        }
    }
}
