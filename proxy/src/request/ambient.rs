//! Which page a request of the host form comes from. Browsers send a cookie along by themselves, so
//! it says whose the request is and nothing of who wants it; the fields that no page can write do.
//! Pure.
//!
//! `Sec-Fetch-Site` decides where a browser sends it (W3C Fetch Metadata), because under
//! `Referrer-Policy: no-referrer` a form of the session's own has `Origin: null`. Elsewhere there is
//! the `Origin`. A client that sends neither is no browser, or one so old that the answer's own
//! guards have to do.

use http::header::{HeaderMap, ORIGIN, REFERER};
use http::{Method, Uri};

use crate::route::session_host::OwnOrigin;

const SITE: &str = "sec-fetch-site";
const MODE: &str = "sec-fetch-mode";
const DEST: &str = "sec-fetch-dest";

/// A field that a browser sends once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Once<'a> {
    #[default]
    No,
    Said(&'a [u8]),
    Several,
}

impl<'a> Once<'a> {
    fn more(&mut self, value: &'a [u8]) {
        *self = if *self == Once::No { Once::Said(value) } else { Once::Several };
    }

    fn is(self, word: &str) -> bool {
        self == Once::Said(word.as_bytes())
    }

    fn said(self) -> Option<&'a [u8]> {
        if let Once::Said(value) = self { Some(value) } else { None }
    }
}

/// What a browser says of the page behind a request.
#[derive(Debug, Clone, Copy)]
pub struct Ambient<'a> {
    /// RFC 9110 §9.2.1, and no WebSocket.
    is_safe: bool,
    site: Once<'a>,
    mode: Once<'a>,
    dest: Once<'a>,
    origin: Once<'a>,
    referer: Once<'a>,
}

/// The page behind a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page<'a> {
    /// The session's own, or none: a person who navigates, a client that is no browser.
    Own,
    /// Another, which may if the connect has listed it.
    Other(Other<'a>),
    /// None that may.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other<'a> {
    /// `None`: the browser does not say.
    pub origin: Option<&'a [u8]>,
    pub wants: Wants,
}

/// What another page wants with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// A script's request, a form, a WebSocket.
    Fetch,
    Frame,
    /// A picture, a script and the like.
    Part,
}

impl<'a> Ambient<'a> {
    pub fn new(method: &Method, is_websocket: bool) -> Self {
        let no = Once::No;
        let is_safe = method.is_safe() && !is_websocket;
        Self { is_safe, site: no, mode: no, dest: no, origin: no, referer: no }
    }

    pub fn of(method: &Method, is_websocket: bool, headers: &'a HeaderMap) -> Self {
        let mut ambient = Self::new(method, is_websocket);
        for (name, value) in headers {
            ambient.note(name.as_str(), value.as_bytes());
        }
        ambient
    }

    /// One of a request's fields; most are none of these.
    pub fn note(&mut self, name: &str, value: &'a [u8]) {
        let field = match name.len() {
            6 if name.eq_ignore_ascii_case(ORIGIN.as_str()) => &mut self.origin,
            7 if name.eq_ignore_ascii_case(REFERER.as_str()) => &mut self.referer,
            14 if name.eq_ignore_ascii_case(SITE) => &mut self.site,
            14 if name.eq_ignore_ascii_case(MODE) => &mut self.mode,
            14 if name.eq_ignore_ascii_case(DEST) => &mut self.dest,
            _ => return,
        };
        field.more(value);
    }

    /// `own`: the origin that was asked. `None`: it is not known yet, and none is its own by name.
    pub fn page(&self, own: Option<&OwnOrigin<'_>>) -> Page<'a> {
        if self.site.is("same-origin") || self.site.is("none") {
            return Page::Own;
        }
        if self.site != Once::No {
            return if self.site == Once::Several { Page::Refused } else { self.other() };
        }
        let is_own = |origin: &[u8]| own.is_some_and(|own| own.is(origin));
        match self.origin {
            Once::Said(origin) if is_own(origin) => Page::Own,
            Once::Said(origin) => Page::Other(Other { origin: Some(origin), wants: Wants::Fetch }),
            Once::Several => Page::Refused,
            Once::No if self.is_safe => Page::Own,
            // A form of a browser that sends neither.
            Once::No => match self.referrer() {
                Some(origin) if !is_own(origin) => {
                    Page::Other(Other { origin: Some(origin), wants: Wants::Fetch })
                }
                _ => Page::Own,
            },
        }
    }

    /// From another site or another origin.
    fn other(&self) -> Page<'a> {
        if self.is_navigation() && self.is_safe {
            return match self.dest {
                // A link was followed. In a browser that says no destination, the
                // answer itself knows which frames may have it.
                Once::No => Page::Own,
                dest if dest.is("document") => Page::Own,
                _ => Page::Other(Other { origin: self.referrer(), wants: Wants::Frame }),
            };
        }
        match self.origin {
            Once::Said(origin) => Page::Other(Other { origin: Some(origin), wants: Wants::Fetch }),
            Once::Several => Page::Refused,
            Once::No if self.is_safe => Page::Other(Other { origin: self.referrer(), wants: Wants::Part }),
            Once::No => Page::Refused,
        }
    }

    /// The origin of the page that the referrer names.
    pub fn referrer(&self) -> Option<&'a [u8]> {
        origin_of(self.referer.said()?)
    }

    fn is_navigation(&self) -> bool {
        self.mode.is("navigate")
    }

    /// Whether a page loads it, as far as the browser says: not a script, and no part of a page.
    pub fn may_navigate(&self) -> bool {
        let is_page = |dest: Once<'_>| ["document", "iframe", "frame"].iter().any(|word| dest.is(word));
        (self.mode == Once::No || self.is_navigation()) && (self.dest == Once::No || is_page(self.dest))
    }

    /// In a frame, where no page of the proxy's own is to be seen before it is known whose frame it
    /// is.
    pub fn is_frame(&self) -> bool {
        self.is_navigation() && self.dest != Once::No && !self.dest.is("document")
    }

    /// A link on another site or another origin led here.
    pub fn is_from_elsewhere(&self) -> bool {
        self.site != Once::No && !self.site.is("same-origin") && !self.site.is("none")
    }
}

impl Other<'_> {
    /// Whether a connect's list has it. `null` is every page that wants to be it, and so is never
    /// listed.
    pub fn is_listed(&self, allowed: &[String]) -> bool {
        let is_origin = |listed: &&String| listed.contains("://");
        match (self.origin, self.wants) {
            (Some(origin), _) => {
                allowed.iter().filter(is_origin).any(|listed| origin.eq_ignore_ascii_case(listed.as_bytes()))
            }
            // The browser compares the frame's page with the list in the answer.
            (None, Wants::Frame) => allowed.iter().any(|listed| is_origin(&listed)),
            (None, Wants::Fetch | Wants::Part) => false,
        }
    }
}

/// `https://host` of `https://host/path`.
fn origin_of(url: &[u8]) -> Option<&[u8]> {
    let scheme = url.windows(3).position(|sign| sign == b"://")?;
    let host = &url[scheme + 3..];
    let length = host.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(host.len());
    (length > 0).then_some(&url[..scheme + 3 + length])
}

/// The origin of a URL, as it is compared.
pub fn origin_of_url(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?, uri.authority()?.as_str());
    Some(format!("{scheme}://{host}").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: OwnOrigin<'_> = OwnOrigin { scheme: "https", host: "sub.example.com" };
    type Lines<'a> = &'a [(&'a str, &'a str)];

    fn headers_of(lines: Lines<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn judged(method: &Method, is_websocket: bool, lines: Lines<'_>, allowed: &[&str]) -> &'static str {
        let headers = headers_of(lines);
        let allowed: Vec<String> = allowed.iter().map(|&origin| origin.to_owned()).collect();
        match Ambient::of(method, is_websocket, &headers).page(Some(&OWN)) {
            Page::Own => "own",
            Page::Refused => "no",
            Page::Other(other) if !other.is_listed(&allowed) => "no",
            Page::Other(Other { wants: Wants::Fetch, .. }) => "fetch",
            Page::Other(Other { wants: Wants::Frame, .. }) => "frame",
            Page::Other(Other { wants: Wants::Part, .. }) => "part",
        }
    }

    /// What becomes of a request where nothing is listed, and where `https://app.org` is.
    fn check(method: Method, is_websocket: bool, lines: Lines<'_>, expect: [&str; 2]) {
        let found =
            [&[][..], &["https://app.org", "null"]].map(|list| judged(&method, is_websocket, lines, list));
        assert_eq!(found, expect, "{method} {lines:?}");
    }

    const CROSS: (&str, &str) = (SITE, "cross-site");
    const SIBLING: (&str, &str) = (SITE, "same-site");
    const APP: (&str, &str) = ("origin", "https://app.org");
    const FROM_APP: (&str, &str) = ("referer", "https://app.org/page?x");
    const NAVIGATES: (&str, &str) = (MODE, "navigate");

    #[test]
    fn the_sessions_own_pages_may_everything() {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            for site in ["same-origin", "none"] {
                check(method.clone(), false, &[(SITE, site), ("origin", "null")], ["own", "own"]);
            }
            check(method.clone(), false, &[], ["own", "own"]);
            check(method.clone(), false, &[("origin", "https://sub.example.com")], ["own", "own"]);
            check(method.clone(), false, &[("referer", "https://sub.example.com/x")], ["own", "own"]);
        }
        check(Method::GET, true, &[("origin", "https://sub.example.com")], ["own", "own"]);
        check(Method::GET, true, &[], ["own", "own"]);
    }

    #[test]
    fn other_pages_may_what_is_listed() {
        for site in [CROSS, SIBLING] {
            check(Method::GET, false, &[site, (MODE, "cors"), APP], ["no", "fetch"]);
            check(Method::POST, false, &[site, NAVIGATES, (DEST, "document"), APP], ["no", "fetch"]);
            check(Method::GET, true, &[site, (MODE, "websocket"), APP], ["no", "fetch"]);
            check(Method::GET, false, &[site, (MODE, "no-cors"), (DEST, "image"), FROM_APP], ["no", "part"]);
            check(Method::GET, false, &[site, NAVIGATES, (DEST, "iframe"), FROM_APP], ["no", "frame"]);
            check(Method::GET, false, &[site, NAVIGATES, (DEST, "iframe")], ["no", "frame"]);
            check(Method::GET, false, &[site, NAVIGATES, (DEST, "document")], ["own", "own"]);
            check(Method::HEAD, false, &[site, NAVIGATES], ["own", "own"]);
        }
        check(Method::GET, true, &[APP], ["no", "fetch"]);
        check(Method::POST, false, &[APP], ["no", "fetch"]);
        check(Method::POST, false, &[FROM_APP], ["no", "fetch"]);
    }

    #[test]
    fn strangers_may_nothing_but_lead_here() {
        let evil: Lines<'_> = &[("origin", "https://evil.example.com")];
        for site in [CROSS, SIBLING, (SITE, "nonsense"), (SITE, "")] {
            fn with<'a>(site: (&'a str, &'a str), more: Lines<'a>) -> Vec<(&'a str, &'a str)> {
                [&[site][..], more].concat()
            }
            check(Method::GET, false, &with(site, evil), ["no", "no"]);
            check(Method::POST, false, &with(site, evil), ["no", "no"]);
            check(Method::POST, false, &with(site, &[]), ["no", "no"]);
            check(Method::POST, false, &with(site, &[("origin", "null")]), ["no", "no"]);
            check(Method::GET, true, &with(site, &[]), ["no", "no"]);
            check(Method::GET, false, &with(site, &[(MODE, "no-cors"), (DEST, "script")]), ["no", "no"]);
            let referer = ("referer", "https://evil.org/https://app.org/");
            check(Method::GET, false, &with(site, &[(MODE, "no-cors"), referer]), ["no", "no"]);
            check(Method::GET, false, &with(site, &[NAVIGATES, (DEST, "iframe"), referer]), ["no", "no"]);
            check(Method::GET, false, &with(site, &[APP, APP]), ["no", "no"]);
        }
        for method in [Method::GET, Method::POST] {
            check(method.clone(), false, evil, ["no", "no"]);
            check(method, false, &[("origin", "null")], ["no", "no"]);
        }
        check(Method::GET, true, &[("origin", "http://sub.example.com")], ["no", "no"]);
        check(Method::POST, false, &[("referer", "https://evil.org/")], ["no", "no"]);
        check(Method::GET, false, &[(SITE, "same-origin"), (SITE, "same-origin")], ["no", "no"]);
    }

    #[test]
    fn what_may_enter_is_a_page() {
        for (lines, may, frame) in [
            (&[][..], true, false),
            (&[NAVIGATES], true, false),
            (&[NAVIGATES, (DEST, "document")], true, false),
            (&[NAVIGATES, (DEST, "iframe")], true, true),
            (&[NAVIGATES, (DEST, "embed")], false, true),
            (&[(MODE, "no-cors"), (DEST, "image")], false, false),
            (&[(MODE, "cors"), (DEST, "empty")], false, false),
            (&[NAVIGATES, NAVIGATES], false, false),
        ] {
            let headers = headers_of(lines);
            let ambient = Ambient::of(&Method::GET, false, &headers);
            assert_eq!((ambient.may_navigate(), ambient.is_frame()), (may, frame), "{lines:?}");
        }
    }

    #[test]
    fn a_url_has_an_origin() {
        for (url, origin) in [
            ("https://a.org/x?y", Some("https://a.org")),
            ("https://a.org", Some("https://a.org")),
            ("https://a.org:1?x", Some("https://a.org:1")),
            ("about:blank", None),
            ("https:///x", None),
        ] {
            assert_eq!(origin_of(url.as_bytes()), origin.map(str::as_bytes), "{url}");
        }
        assert_eq!(origin_of_url("HTTPS://A.org:8443/x").as_deref(), Some("https://a.org:8443"));
    }
}
