//! The way back of a person whose way ends at a session's host: to the web app that has started the
//! session, which connects again and sends the browser on to the path that it wanted.

use http::Uri;
use http::header::HeaderValue;
use jetway_protocol::ids::PortName;

use crate::limits::shares::ClientKey;
use crate::owners::Owner;
use crate::problem::Problem;
use crate::request::on_host::Visit;
use crate::request::server::Server;
use crate::route::hosts::split_port;
use crate::route::wanted::WantedPath;

/// Bytes of a `Location`, at most: a longer one goes without the path.
const LOCATION_BYTES_MAX: usize = 6 * 1024;

/// Why the way ends, as the web app reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    NoSession,
    Expired,
    Revoked,
    Ended,
    /// The browser keeps no cookie here.
    Blocked,
}

/// Where a person goes.
pub enum Back {
    To(HeaderValue),
    /// The host is a session's, and its connects say no URL.
    Nowhere,
    /// No session is known to have the host.
    Unknown,
}

impl Reason {
    /// `None`: another connect would help nothing.
    pub fn of(problem: &Problem) -> Option<Self> {
        match problem {
            Problem::NoSession | Problem::TokenInvalid | Problem::Root | Problem::WrongHost => {
                Some(Reason::NoSession)
            }
            Problem::AbsolutePath | Problem::NoIcon => Some(Reason::NoSession),
            Problem::TokenExpired => Some(Reason::Expired),
            Problem::TokenRevoked => Some(Reason::Revoked),
            Problem::Ended(_) | Problem::Stopping(_) | Problem::Unknown => Some(Reason::Ended),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Reason::NoSession => "no_session",
            Reason::Expired => "expired",
            Reason::Revoked => "revoked",
            Reason::Ended => "ended",
            Reason::Blocked => "blocked",
        }
    }
}

impl Server {
    /// Asks who has the host. `asker`: whose share of such questions it is.
    pub async fn way_back(
        &self,
        visit: &Visit,
        asker: Option<ClientKey>,
        reason: Reason,
        path: &WantedPath,
    ) -> Back {
        let site = &visit.site;
        let Owner::Owned(owner) = self.owners.of(&site.base, asker).await else { return Back::Unknown };
        let url = owner.return_url.as_deref().filter(|url| !leads_to(url, &site.base));
        url.and_then(|url| location(url, reason, path, site.port.as_ref())).map_or(Back::Nowhere, Back::To)
    }
}

/// A host that sends its people to itself would send them round and round.
fn leads_to(url: &str, base: &str) -> bool {
    let host = |text: &str| split_port(text).0.trim_end_matches('.').to_ascii_lowercase();
    let there = url.parse::<Uri>().ok().and_then(|uri| uri.authority().map(|there| host(there.as_str())));
    there.is_none_or(|there| there == host(base) || there.ends_with(&format!("--{}", host(base))))
}

fn location(url: &str, reason: Reason, path: &WantedPath, port: Option<&PortName>) -> Option<HeaderValue> {
    if !(url.starts_with("https://") || url.starts_with("http://")) {
        return None;
    }
    let (url, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let sign = match url.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "&",
    };
    let port = port.map(|port| format!("&jetway_port={port}")).unwrap_or_default();
    let (path, reason) = (path.encoded(), reason.word());
    let text = format!("{url}{sign}jetway_path={path}&jetway_reason={reason}{port}{fragment}");
    let text = if text.len() <= LOCATION_BYTES_MAX {
        text
    } else {
        format!("{url}{sign}jetway_path=/&jetway_reason={reason}{port}{fragment}")
    };
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_sent_back_with_the_wanted_path() {
        let path = WantedPath::in_query(Some("path=/a%3Fb%3Dc%26d"));
        let port: PortName = "debug".parse().unwrap();
        for (url, port, expect) in [
            ("https://app.org", None, Some("https://app.org?jetway_path=/a%3Fb%3Dc%26d&jetway_reason=ended")),
            (
                "https://app.org/x?",
                None,
                Some("https://app.org/x?jetway_path=/a%3Fb%3Dc%26d&jetway_reason=ended"),
            ),
            (
                "http://app.org/x?doc=1#top",
                Some(&port),
                Some(
                    "http://app.org/x?doc=1&jetway_path=/a%3Fb%3Dc%26d&jetway_reason=ended&jetway_port=debug#top",
                ),
            ),
            ("javascript:alert(1)", None, None),
            ("https://app.org/\r\nset-cookie: a", None, None),
        ] {
            let found = location(url, Reason::Ended, &path, port);
            assert_eq!(found.as_ref().map(|found| found.to_str().unwrap()), expect, "{url}");
        }
        let long = WantedPath::in_query(Some(&format!("path=/{}", "a".repeat(1900))));
        let url = format!("https://app.org/{}", "x".repeat(5000));
        assert!(location(&url, Reason::Ended, &long, None).unwrap().len() < 5200, "without the path");
    }

    #[test]
    fn nobody_is_sent_in_a_circle() {
        for (url, circle) in [
            ("https://sub.example.com/", true),
            ("https://SUB.example.com.:8443/", true),
            ("https://debug--sub.example.com/", true),
            ("/nonsense", true),
            ("https://example.com/", false),
            ("https://sub.example.com.evil.org/", false),
        ] {
            assert_eq!(leads_to(url, "sub.example.com"), circle, "{url}");
        }
    }

    #[test]
    fn another_connect_helps_who_has_no_session() {
        assert_eq!(Reason::of(&Problem::TokenRevoked), Some(Reason::Revoked));
        assert_eq!(Reason::of(&Problem::Stopping(None)), Some(Reason::Ended));
        for other in [Problem::Waiting, Problem::Busy, Problem::OtherOrigin, Problem::Refused] {
            assert_eq!(Reason::of(&other), None, "{other:?}");
        }
    }
}
