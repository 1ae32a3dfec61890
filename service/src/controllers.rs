//! The controllers that a drone or a proxy is given: their URLs, calls to them ([`Controllers`]),
//! and what an answer says about who gave it. A wrong URL and a controller that is away look alike
//! to a retry loop; here they are told apart.
//!
//! Not its business: what is asked of them.

mod calls;

use serde::Deserialize;
use tokio::time::Instant;

pub use calls::{CALL_MAX, Controllers, RETRY_FIRST, RETRY_MAX};

use crate::client::CallError;
use crate::silence::Silence;

/// Characters of an answer's own words that are shown.
const SHOWN_CHARS_MAX: usize = 200;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    #[error("no controller is named; give at least one with --controller URL")]
    None,
    #[error("the controller URL {0:?} is no URL: give one like http://controller:8080")]
    NotAUrl(String),
    #[error(
        "the controller URL {0:?} begins with neither http:// nor https://: give one like http://controller:8080"
    )]
    Scheme(String),
    #[error(
        "the controller URL {0:?} has something after its host and port: leave it out, as in http://controller:8080"
    )]
    Path(String),
    /// Not shown: it has a password in it, most likely.
    #[error(
        "a controller URL has a user in it: leave that out, as in http://controller:8080; JETWAY_SECRET is what a drone or proxy shows"
    )]
    User,
}

/// Base URLs without a slash at their ends, all of them good.
pub fn urls(given: &[String]) -> Result<Vec<String>, BadUrl> {
    if given.is_empty() {
        return Err(BadUrl::None);
    }
    given.iter().map(|text| url(text)).collect()
}

fn url(text: &str) -> Result<String, BadUrl> {
    let text = text.trim();
    let shown = || text.chars().take(SHOWN_CHARS_MAX).collect();
    let parsed = match reqwest::Url::parse(text) {
        Ok(parsed) => parsed,
        // `controller:8080` has a scheme by the letter, `127.0.0.1:8080` has none.
        Err(_) if !text.contains("://") && text.contains(':') => return Err(BadUrl::Scheme(shown())),
        Err(_) => return Err(BadUrl::NotAUrl(shown())),
    };
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(BadUrl::User);
    }
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(BadUrl::Scheme(shown()));
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(BadUrl::NotAUrl(shown()));
    }
    if parsed.path() != "/" || parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(BadUrl::Path(shown()));
    }
    Ok(parsed.as_str().trim_end_matches('/').to_owned())
}

/// What a failed call says about the controller that it went to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody answered, or a balancer for nobody.
    Silent,
    /// A controller that cannot serve now.
    NotNow,
    /// Waiting changes nothing. The words follow the URL in a sentence.
    Refused(String),
}

/// How our own components say no: `ApiError`, and the refusal of a term.
#[derive(Deserialize)]
struct Ours {
    #[serde(rename = "code")]
    _code: String,
    message: String,
}

impl Verdict {
    pub fn of(error: &CallError) -> Self {
        match error {
            CallError::NotSent { .. } | CallError::TimedOut { .. } | CallError::Broken { .. } => {
                Verdict::Silent
            }
            CallError::Unreadable { .. } => Verdict::Refused(format!("{FOREIGN} (its answer is not ours)")),
            CallError::Refused { status, body, .. } => Self::of_answer(*status, body),
        }
    }

    fn of_answer(status: u16, body: &str) -> Self {
        let ours: Option<Ours> = serde_json::from_str(body).ok();
        match (status, ours) {
            (408 | 429, _) => Verdict::NotNow,
            // A method that nobody implements, a version of HTTP that is not spoken.
            (501 | 505, None) => Verdict::Refused(format!("{FOREIGN} (it answers {status})")),
            (500.., Some(_)) => Verdict::NotNow,
            (500.., None) => Verdict::Silent,
            (401, Some(_)) => Verdict::Refused(
                "does not know our secret: give both sides the same JETWAY_SECRET".to_owned(),
            ),
            (_, Some(Ours { message, .. })) => Verdict::Refused(format!(
                "says no: {}",
                message.chars().take(SHOWN_CHARS_MAX).collect::<String>()
            )),
            (_, None) => Verdict::Refused(format!("{FOREIGN} (it answers {status})")),
        }
    }
}

const FOREIGN: &str = "is no Jetway controller: check the URL";

/// Whether another controller may say something else: a refusal in our own words stands everywhere, except that of a
/// secret, which each has for itself.
pub fn is_to_be_asked_elsewhere(error: &CallError) -> bool {
    match error {
        CallError::Refused { status: 401 | 403 | 408 | 429 | 500.., .. } => true,
        CallError::Refused { body, .. } => serde_json::from_str::<Ours>(body).is_err(),
        _ => true,
    }
}

/// From the start to the first registration: who has said what, what the operator hears of it, and when there is nobody
/// left to wait for.
#[derive(Debug)]
pub struct FirstContact {
    urls: Vec<Heard>,
    silence: Silence,
}

#[derive(Debug)]
struct Heard {
    url: String,
    refusal: Option<String>,
    told: Silence,
}

impl FirstContact {
    pub fn new(urls: &[String]) -> Self {
        let heard = |url: &String| Heard { url: url.clone(), refusal: None, told: Silence::default() };
        Self { urls: urls.iter().map(heard).collect(), silence: Silence::default() }
    }

    /// Tells the operator, at most once in a while. `Some`: every controller refuses, and this says why.
    pub fn failed(&mut self, url: &str, error: &CallError, now: Instant) -> Option<String> {
        let heard = self.urls.iter_mut().find(|heard| heard.url == url)?;
        match Verdict::of(error) {
            Verdict::Refused(why) => {
                if heard.refusal.as_ref() != Some(&why) {
                    heard.told = Silence::default();
                }
                if heard.told.is_to_be_told(now) {
                    tracing::warn!("{url} {why}");
                }
                heard.refusal = Some(why);
            }
            verdict => {
                // What it said once stands until it says something else.
                if verdict == Verdict::NotNow {
                    heard.refusal = None;
                }
                if self.silence.is_to_be_told(now) {
                    tracing::warn!(%error, "no controller answers yet; trying on");
                }
            }
        }
        let refusals: Option<Vec<_>> = self
            .urls
            .iter()
            .map(|heard| Some(format!("{} {}", heard.url, heard.refusal.as_ref()?)))
            .collect();
        refusals.map(|refusals| refusals.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answered(status: u16, body: &str) -> CallError {
        CallError::Refused { url: "http://a/x".to_owned(), status, body: body.to_owned() }
    }

    fn silent() -> CallError {
        CallError::NotSent { url: "http://a/x".to_owned(), reason: "connection refused".to_owned() }
    }

    #[test]
    fn a_controller_url_is_a_scheme_and_a_host() {
        for (given, good) in [
            ("http://controller:8080", "http://controller:8080"),
            (" https://jetway.example.org/ ", "https://jetway.example.org"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("HTTP://10.63.0.11:8080", "http://10.63.0.11:8080"),
        ] {
            assert_eq!(url(given), Ok(good.to_owned()), "{given}");
        }
        for (given, sign) in [
            ("", "is no URL"),
            ("controller", "is no URL"),
            ("http://", "is no URL"),
            ("http://a b", "is no URL"),
            ("http://a:99999", "is no URL"),
            ("controller:8080", "http:// nor https://"),
            ("127.0.0.1:8080", "http:// nor https://"),
            ("ftp://a", "http:// nor https://"),
            ("unix:///run/x", "http:// nor https://"),
            ("http://a/ctrl", "after its host"),
            ("http://a?x=1", "after its host"),
            ("http://a#x", "after its host"),
            ("http://me:hunter2@a", "has a user in it"),
        ] {
            let error = url(given).unwrap_err().to_string();
            assert!(
                error.contains(sign) && !error.contains("hunter2") && !error.contains('\n'),
                "{given}: {error}"
            );
        }
        assert_eq!(urls(&[]), Err(BadUrl::None));
    }

    #[test]
    fn an_answer_says_who_gave_it() {
        let ours = |code: &str| format!(r#"{{"id":"x","kind":"Other","code":"{code}","message":"not so"}}"#);
        let refused = |sign: &'static str| Some(sign);
        for (status, body, expect) in [
            (404, "<html>not found</html>".to_owned(), refused("is no Jetway controller")),
            (404, r#"{"detail":"Not Found"}"#.to_owned(), refused("is no Jetway controller")),
            (405, String::new(), refused("is no Jetway controller")),
            (301, String::new(), refused("is no Jetway controller")),
            (501, "<html>".to_owned(), refused("is no Jetway controller")),
            (401, "<html>who are you</html>".to_owned(), refused("is no Jetway controller")),
            (401, ours("unauthorized"), refused("JETWAY_SECRET")),
            (422, ours("invalid_request"), refused("says no: not so")),
            (409, r#"{"code":"name_taken","message":"not so"}"#.to_owned(), refused("says no: not so")),
            (429, ours("too_many"), None),
            (503, ours("unavailable"), None),
        ] {
            match (Verdict::of(&answered(status, &body)), expect) {
                (Verdict::Refused(why), Some(sign)) => assert!(why.contains(sign), "{status} {body}: {why}"),
                (Verdict::NotNow, None) => {}
                (other, _) => panic!("{status} {body}: {other:?}"),
            }
        }
        assert_eq!(Verdict::of(&answered(502, "<html>bad gateway</html>")), Verdict::Silent);
        assert_eq!(Verdict::of(&silent()), Verdict::Silent);
        let unreadable = CallError::Unreadable { url: "u".to_owned(), reason: "r".to_owned() };
        assert!(matches!(Verdict::of(&unreadable), Verdict::Refused(_)));
    }

    #[test]
    fn only_our_own_word_stands_for_every_controller() {
        let stale = r#"{"code":"term","message":"over"}"#;
        for (error, elsewhere) in [
            (silent(), true),
            (answered(404, "<html>"), true),
            (answered(401, r#"{"code":"unauthorized","message":"m"}"#), true),
            (answered(503, r#"{"code":"unavailable","message":"m"}"#), true),
            (answered(409, stale), false),
            (answered(422, r#"{"code":"invalid_request","message":"m"}"#), false),
        ] {
            assert_eq!(is_to_be_asked_elsewhere(&error), elsewhere, "{error}");
        }
    }

    #[test]
    fn it_gives_up_only_when_each_of_them_has_refused() {
        let urls = ["http://a".to_owned(), "http://b".to_owned()];
        let (mut contact, now) = (FirstContact::new(&urls), Instant::now());
        let wrong = answered(404, "");
        assert_eq!(contact.failed("http://a", &wrong, now), None);
        assert_eq!(contact.failed("http://b", &silent(), now), None, "nobody knows what b will say");
        assert_eq!(contact.failed("http://a", &silent(), now), None);
        let why = contact.failed("http://b", &wrong, now + Duration::from_secs(1)).unwrap();
        assert!(why.contains("http://a is no Jetway") && why.contains("http://b is no Jetway"), "{why}");

        let mut contact = FirstContact::new(&urls[..1]);
        let busy = answered(503, r#"{"code":"unavailable","message":"m"}"#);
        assert_eq!(contact.failed("http://a", &busy, now), None);
        assert!(contact.failed("http://a", &wrong, now).is_some());
    }
}
