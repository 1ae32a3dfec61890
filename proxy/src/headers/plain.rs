//! The lines that the plain lane writes: those of the sender as they came, and behind them the same
//! that `request` and `response` set in a map.

use http::header::HeaderMap;

use super::fixed::FixedHeaders;
use super::forwarded::{self, Forwarding};
pub use super::lines::{write_all, write_line};
use super::origin::Served;
use super::request::VERIFIED_PATH;
use super::response::{BACKEND_ID, CORS, EVERY_ORIGIN, POLICY};
use super::value::Unwritable;

/// Writes our lines behind a client's own ones. `said`: a forwarder's lines on others.
pub fn tell_backend(
    text: &mut Vec<u8>,
    fixed: &FixedHeaders,
    verified_path: &str,
    said: &mut HeaderMap,
    forwarding: &Forwarding<'_>,
) -> Result<(), Unwritable> {
    text.extend_from_slice(fixed.written());
    if forwarding.peer.trusted {
        forwarded::tell(said, forwarding)?;
        write_all(text, said);
    }
    write_line(text, VERIFIED_PATH.as_str(), verified_path.as_bytes());
    Ok(())
}

/// Writes our lines behind a backend's own ones, but for those that it has said itself. In the host
/// form this lane has answers for [`super::Readers::Own`] alone.
pub fn tell_client(
    text: &mut Vec<u8>,
    backend: &[u8],
    has_policy: bool,
    has_cors: bool,
    served: &Served<'_>,
) {
    write_line(text, BACKEND_ID.as_str(), backend);
    if let Served::Guarded(guard, _) = served {
        text.extend_from_slice(guard.written());
        return;
    }
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

    use super::super::guard::Guard;
    use super::super::origin::Readers;
    use super::super::rules::{InAnswer, InRequest, in_answer, in_request};
    use super::super::to_client;
    use super::*;

    proptest! {
        #[test]
        fn what_passes_is_what_the_rules_leave_alone(name in "(x|X|f|F|h|t|p)?[-_.a-zA-Z0-9]{0,40}") {
            let Ok(known) = HeaderName::from_bytes(name.as_bytes()) else { return Ok(()) };
            let (mut upper, lower) = (name.clone(), known.as_str());
            upper.make_ascii_uppercase();
            prop_assert_eq!(in_request(name.as_bytes()), in_request(lower.as_bytes()));
            prop_assert_eq!(in_request(upper.as_bytes()), in_request(lower.as_bytes()));
            if in_request(name.as_bytes()) == InRequest::Passes {
                let is_ours = lower.starts_with("x-verified") || lower.starts_with("x-forwarded-");
                prop_assert!(!is_ours && known != http::header::TE && known != "proxy", "{name}");
            }
            if in_answer(name.as_bytes()) == InAnswer::Passes {
                let mut headers = HeaderMap::new();
                headers.insert(&known, HeaderValue::from_static("v"));
                let shared = super::super::Shared { prefix: "/t", asked: "/t/a", path_is_kept: false };
                to_client(&mut headers, &HeaderValue::from_static("b"), &Served::Shared(shared), None);
                prop_assert!(headers.get(&known).is_some_and(|value| value == "v"), "{name}");
            }
        }
    }

    #[test]
    fn a_client_is_told_what_the_rules_tell_it() {
        let guard = Guard::new(&["https://a".to_owned()]);
        let forms = [Served::Alone, Served::Guarded(&guard, &Readers::Own)];
        let said = [(false, false), (true, false), (false, true), (true, true)];
        for (served, (policy, cors)) in forms.iter().flat_map(|form| said.map(|said| (form, said))) {
            let mut by_rule = HeaderMap::new();
            if policy {
                by_rule.insert("referrer-policy", HeaderValue::from_static("origin"));
            }
            if cors {
                by_rule.insert("access-control-allow-origin", HeaderValue::from_static("https://a"));
            }
            let (mut written, mut expect) = (Vec::new(), Vec::new());
            write_all(&mut written, &by_rule);
            tell_client(&mut written, b"b-1", policy, cors, served);
            to_client(&mut by_rule, &HeaderValue::from_static("b-1"), served, None);
            write_all(&mut expect, &by_rule);
            let lines = |text: &[u8]| {
                let text = String::from_utf8(text.to_vec()).unwrap();
                text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
            };
            assert_eq!(lines(&written), lines(&expect), "{policy} {cors}");
        }
    }
}
