//! Stays that are made of requests: on a kept HTTP/1.1 connection, side by side over HTTP/2, and a person's, that begins with the
//! waiting page.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::line::{Answer, Ask, Line, Protocol};
use super::{Client, Left};
use crate::places::Part;
use crate::pools::LINGER_SECONDS;
use crate::seen::{Hung, SECOND, now};
use crate::shore::{OPEN, OPEN_BOUND, Page, Shore};

const STAY_MS: (u64, u64) = (300, 6000);
/// Shorter than the time for which a request goes on being a use.
const PAUSE_MS: (u64, u64) = (50, 500);
/// A body comes in one piece with its head, or does not.
const BODY_BYTES: (u64, u64) = (0, 40_000);
const HTML: &str = "text/html,*/*;q=0.8";
const STAGE: &str = "application/vnd.jetway.stage+json";
/// What only the waiting page has.
const WAITING: &str = "<h1 id=\"title\">Starting</h1>";

/// What a request came to.
enum Told {
    /// The session itself answered.
    Session,
    /// The proxy answered a person, or the waiting page, that it starts.
    Starts(String),
    Gone,
    Failed,
}

impl Client {
    fn post_of(&mut self, page: &Page) -> Ask {
        let bytes = usize::try_from(self.dice.between(BODY_BYTES)).unwrap_or(0);
        let name = format!("{}-{}", self.number, self.dice.next());
        Ask {
            path: format!("{}post", page.path),
            accept: "*/*",
            lines: vec![("x-name", name.clone())],
            body: Some(name.chars().cycle().take(bytes).collect()),
        }
    }

    /// `Gone` only where none was answered.
    pub(super) async fn by_requests(&mut self, page: &Page, proxy: u8, protocol: Protocol) -> Left {
        let shore = self.shore.clone();
        let Some(mut line) = shore.line(page, proxy, protocol).await else { return Left::Failed };
        let until = Instant::now() + Duration::from_millis(self.dice.between(STAY_MS));
        let mut is_first = true;
        while Instant::now() < until {
            let get = Ask { path: page.path.clone(), accept: "*/*", ..Ask::default() };
            let post = self.post_of(page);
            let told = match line.beside() {
                None => {
                    let ask = if self.dice.one_in(2) { get } else { post };
                    vec![shore.request(page, proxy, &mut line, &ask).await]
                }
                Some(mut beside) => {
                    let (one, other) = tokio::join!(
                        shore.request(page, proxy, &mut line, &get),
                        shore.request(page, proxy, &mut beside, &post)
                    );
                    vec![one, other]
                }
            };
            for told in told {
                match told {
                    Told::Session => is_first = false,
                    Told::Gone if is_first => return Left::Gone,
                    Told::Gone => return Left::Wanted,
                    Told::Starts(_) | Told::Failed => return Left::Failed,
                }
            }
            self.pause(PAUSE_MS).await;
        }
        if self.dice.one_in(10) {
            self.stop(page).await;
        }
        Left::Wanted
    }

    /// A person opens the URL, sees the waiting page or the application's, and loads that once more.
    pub(super) async fn by_page(&mut self, page: &Page, proxy: u8) -> Left {
        let shore = self.shore.clone();
        let Some(mut line) = shore.line(page, proxy, Protocol::Http1).await else { return Left::Failed };
        let from = now();
        let Ok(entered) = tokio::time::timeout(OPEN, shore.enter(page, proxy, &mut line)).await else {
            let (what, to, backend) = ("a page".to_owned(), Part::Proxy(proxy), Some(page.backend.clone()));
            let hung = Hung { what, to, backend, starts: true, bound: OPEN_BOUND, from, at: now() };
            shore.seen.note().hung.push(hung);
            return Left::Failed;
        };
        let Left::Wanted = entered else { return entered };
        self.pause(PAUSE_MS).await;
        let again = now();
        match shore.request(page, proxy, &mut line, &shown(page)).await {
            Told::Starts(_) => {
                let what = "the waiting page, after the application's".to_owned();
                shore.turned_away(what, Part::Proxy(proxy), Some(page.backend.clone()), again);
                Left::Failed
            }
            Told::Failed => Left::Failed,
            Told::Session | Told::Gone => Left::Wanted,
        }
    }
}

/// What a browser asks for where a person opens a URL.
fn shown(page: &Page) -> Ask {
    Ask { path: page.path.clone(), accept: HTML, ..Ask::default() }
}

impl Shore {
    async fn line(&self, page: &Page, proxy: u8, protocol: Protocol) -> Option<Line> {
        let (to, from) = (Part::Proxy(proxy), now());
        self.tried(page);
        let why = match tokio::time::timeout(OPEN, Line::open(proxy, protocol)).await {
            Ok(Ok(line)) => return Some(line),
            Ok(Err(why)) => why,
            Err(_) => "no connection".to_owned(),
        };
        self.seen.answer("request: no connection");
        self.turned_away(format!("a request: {why}"), to, Some(page.backend.clone()), from);
        None
    }

    /// Until the application's own page is shown, as the waiting page's script does it.
    async fn enter(&self, page: &Page, proxy: u8, line: &mut Line) -> Left {
        let mut known = String::new();
        loop {
            let from = now();
            match self.request(page, proxy, line, &shown(page)).await {
                Told::Session => return Left::Wanted,
                Told::Gone => return Left::Gone,
                Told::Failed => return Left::Failed,
                Told::Starts(_) if known == "ready" => {
                    let what = "the waiting page, after it was told that all is ready".to_owned();
                    self.turned_away(what, Part::Proxy(proxy), Some(page.backend.clone()), from);
                    return Left::Failed;
                }
                Told::Starts(_) => {}
            }
            while known != "ready" {
                let lines = vec![("x-jetway-stage", known.clone()), ("x-jetway-hint", String::new())];
                let ask = Ask { path: page.path.clone(), accept: STAGE, lines, body: None };
                match self.request(page, proxy, line, &ask).await {
                    Told::Starts(stage) => known = stage,
                    Told::Gone => return Left::Gone,
                    Told::Session | Told::Failed => return Left::Failed,
                }
            }
        }
    }

    async fn request(&self, page: &Page, proxy: u8, line: &mut Line, ask: &Ask) -> Told {
        let (to, from) = (Part::Proxy(proxy), now());
        let backend = Some(page.backend.clone());
        let Ok(answer) = tokio::time::timeout(OPEN, line.ask(ask)).await else {
            let what = "a request".to_owned();
            let hung = Hung { what, to, backend, starts: false, bound: OPEN_BOUND, from, at: now() };
            self.seen.note().hung.push(hung);
            return Told::Failed;
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.seen.answer("request: no answer");
                self.turned_away(format!("a request: {error}"), to, backend, from);
                return Told::Failed;
            }
        };
        self.told(page, (proxy, from), ask, &answer)
    }

    fn told(&self, page: &Page, (proxy, from): (u8, u64), ask: &Ask, answer: &Answer) -> Told {
        let (to, body): (_, Value) =
            (Part::Proxy(proxy), serde_json::from_str(&answer.body).unwrap_or_default());
        if answer.status == 200 && ask.accept == STAGE {
            return Told::Starts(body["status"].as_str().unwrap_or_default().to_owned());
        }
        if answer.status == 200 {
            self.is_right(page, proxy, &body);
            self.used(page, proxy, Some(from), None, LINGER_SECONDS * SECOND);
            if let Some(sent) = &ask.body {
                *self.seen.note().posted.entry(page.backend.clone()).or_default() += 1;
                if body["times"] != 1 || body["body"] != sent.as_str() {
                    let what = format!("a POST to {} was answered: {}", page.backend, body["times"]);
                    self.seen.note().strangers.push(format!("stranger: {} {what}", self.seen.clock()));
                }
            }
            return Told::Session;
        }
        if answer.body.contains(WAITING) {
            self.seen.answer("page: the waiting page");
            return Told::Starts(String::new());
        }
        let code = body["code"].as_str().unwrap_or(if ask.accept == HTML { "page" } else { "-" });
        self.seen.answer(&format!("request: {} {code}", answer.status));
        if self.is_gone(page, to, answer.status, code) {
            return Told::Gone;
        }
        let what = format!("a request: {} {code}{}", answer.status, page.doubt());
        self.turned_away(what, to, Some(page.backend.clone()), from);
        Told::Failed
    }
}
