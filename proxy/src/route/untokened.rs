//! Requests that carry no token, and the words that help their sender. A browser asks for
//! `/favicon.ico` of every host; and a page of a session that names `/app.js` asks for it above its
//! session, because the token is in front of the path. Pure.

use http::header::{HOST, HeaderMap, REFERER};
use http::uri::Uri;
use jetway_protocol::token::STATIC_PREFIX;

use crate::problem::Problem;

/// Fewer characters are no token of any installation.
const TOKEN_CHARS_MIN: usize = 48;

/// The same problem in words that fit the request, if it is that its path has no token.
pub fn explained(problem: Problem, path: &str, headers: &HeaderMap) -> Problem {
    match problem {
        Problem::TokenInvalid if path == "/favicon.ico" => Problem::NoIcon,
        Problem::TokenInvalid if !has_a_token(path) && is_from_a_page_here(headers) => Problem::AbsolutePath,
        problem => problem,
    }
}

/// By its looks: whether it is any good was asked before.
fn has_a_token(path: &str) -> bool {
    let segment = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let token = segment.strip_prefix(STATIC_PREFIX).unwrap_or(segment);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    token.len() >= TOKEN_CHARS_MIN && token.bytes().all(fits)
}

/// All pages under this host are sessions'. Browsers say whose page it is in
/// `Sec-Fetch-Site`, on origins that they trust (W3C Fetch Metadata); elsewhere there is the
/// referrer.
fn is_from_a_page_here(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let referrer = text(REFERER).and_then(|referrer| referrer.parse::<Uri>().ok());
    let page = referrer.as_ref().and_then(Uri::authority);
    page.zip(text(HOST)).is_some_and(|(page, host)| page.as_str().eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, lines: &[(&'static str, &str)], expect: &Problem) {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "h:9090".parse().unwrap());
        for (name, value) in lines {
            headers.insert(*name, value.parse().unwrap());
        }
        assert_eq!(explained(Problem::TokenInvalid, path, &headers), *expect, "{path} {lines:?}");
    }

    #[test]
    fn a_path_without_token_is_explained() {
        let page = [("sec-fetch-site", "same-origin")];
        check("/app.js", &page, &Problem::AbsolutePath);
        check("/static/app.js", &[("referer", "http://h:9090/")], &Problem::AbsolutePath);
        check("/static/app.js", &[("referer", "http://H:9090/token/page")], &Problem::AbsolutePath);
        check("/favicon.ico", &page, &Problem::NoIcon);
        check("/favicon.ico", &[], &Problem::NoIcon);
        for lines in [
            &[][..],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "cross-site"), ("referer", "http://h:9090/")],
            &[("referer", "http://evil.org/")],
            &[("referer", "http://h:9090.evil.org/")],
            &[("referer", "\u{e4}")],
        ] {
            check("/app.js", lines, &Problem::TokenInvalid);
        }
        // One that is forged, or of another installation.
        let token = "Ab-_".repeat(30);
        check(&format!("/{token}/app.js"), &page, &Problem::TokenInvalid);
        check(&format!("/s.{token}"), &page, &Problem::TokenInvalid);
    }

    #[test]
    fn other_problems_stay_as_they_are() {
        let headers = HeaderMap::new();
        assert_eq!(explained(Problem::TokenExpired, "/favicon.ico", &headers), Problem::TokenExpired);
    }
}
