//! What clients share: how each of them asks for a key's session and enters it, and what is noted of the answers. Whether an answer
//! was right is the checker's business.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::places::Part;
use crate::pools::{number_of, request};
use crate::seen::{Asked, Hung, Refused, SECOND, Seen, TurnedAway, UNCONFIRMED, Used, Wish, now};

/// A connect: 20 s for a stopping key, and what else it may do; with `wait` 30 s more.
const CONNECT: Duration = Duration::from_secs(40);
const CONNECT_WAIT: Duration = Duration::from_secs(75);
/// An open: the proxy holds it for 20 s, and its own dials have deadlines.
pub const OPEN: Duration = Duration::from_secs(40);
pub const ECHO: Duration = Duration::from_secs(20);
/// What each may take where nothing is wrong: a stopping key is waited for 20 s, `wait` is 30 s, a proxy holds for 20 s.
const CONNECT_BOUND: u64 = 30 * SECOND;
const CONNECT_WAIT_BOUND: u64 = 60 * SECOND;
pub const OPEN_BOUND: u64 = 25 * SECOND;
const ECHO_BOUND: u64 = 5 * SECOND;

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The installation, as a client reaches it.
pub struct Shore {
    pub seen: Seen,
    pub http: reqwest::Client,
    /// Alike, but for their ids.
    pub images: [String; 2],
    pub keys: u64,
}

/// What a connect gave.
#[derive(Debug, Clone)]
pub struct Page {
    pub path: String,
    pub key: String,
    pub backend: String,
    pub fence: u64,
    /// Its drone has said that it lives.
    pub confirmed: bool,
}

impl Page {
    /// The end of what is said of an answer to it.
    pub fn doubt(&self) -> &'static str {
        if self.confirmed { "" } else { UNCONFIRMED }
    }
}

/// How an open ended.
pub enum Opened {
    Open(Box<Socket>),
    /// The URL's session is over.
    Gone,
    Failed,
}

impl Shore {
    pub fn wish(&self, page: &Page, wish: Wish) {
        self.seen.note().asked.push(Asked { backend: page.backend.clone(), wish, at: now() });
    }

    pub fn refused(
        &self,
        what: &str,
        (by, through): (Part, Option<u8>),
        unconfirmed: bool,
        backend: &str,
        from: u64,
    ) {
        let (what, backend) = (what.to_owned(), backend.to_owned());
        let refused = Refused { what, by, through, unconfirmed, backend, from, at: now() };
        self.seen.say(&format!("{}: {}", refused.backend, refused.what));
        self.seen.note().refused.push(refused);
    }

    /// Nothing, where no answer came.
    pub fn used(&self, page: &Page, proxy: u8, last: Option<u64>, closing: Option<u64>, lingers: u64) {
        let Some(last) = last else { return };
        let used = Used { backend: page.backend.clone(), proxy, last, closing, lingers };
        self.seen.note().used.push(used);
    }

    pub fn tried(&self, page: &Page) {
        self.seen.note().tried.entry(page.backend.clone()).or_insert_with(now);
    }

    pub fn turned_away(&self, what: String, to: Part, backend: Option<String>, from: u64) {
        self.seen.note().turned_away.push(TurnedAway { what, to, backend, from, at: now() });
    }

    pub async fn post(
        &self,
        to: Part,
        path: &str,
        body: &Value,
        (deadline, bound): (Duration, u64),
    ) -> Option<(u16, Value)> {
        let from = now();
        let url = format!("http://{}{path}", to.address());
        let asked = async {
            let response = self.http.post(url).json(body).send().await.ok()?;
            let status = response.status().as_u16();
            Some((status, response.json::<Value>().await.ok()?))
        };
        let answer = match tokio::time::timeout(deadline, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                let what = format!("POST {path}");
                self.seen.note().hung.push(Hung {
                    what,
                    to,
                    backend: None,
                    starts: false,
                    bound,
                    from,
                    at: now(),
                });
                return None;
            }
        };
        match &answer {
            Some((status, _)) if *status < 300 => {}
            Some((status, body)) => {
                let code = body["code"].as_str().unwrap_or("-");
                self.seen.answer(&format!("{status} {code}"));
                // Either may be gone: a pool that was deleted, a backend whose row was lost.
                let names_none = matches!(code, "pool_not_found" | "backend_not_found");
                if (matches!(*status, 502..=504) || names_none) && code != "start_failed" {
                    let backend = body["backend_id"].as_str().or_else(|| path.split('/').nth(3));
                    let backend = backend.map(str::to_owned);
                    self.turned_away(format!("{status} {code}"), to, backend, from);
                }
                if code == "start_failed" {
                    let backend = body["backend_id"].as_str().unwrap_or("-");
                    self.refused(&format!("did not start: {body}"), (to, None), false, backend, from);
                }
                if *status == 500 || (matches!(*status, 400..=409 | 411..=499) && !names_none) {
                    self.seen.broken(&format!("{to} answered {path} {status} {body}"));
                }
            }
            None => {
                self.seen.answer("connect: no answer");
                self.turned_away(format!("no answer to {path}"), to, None, from);
            }
        }
        answer
    }

    pub async fn connect(&self, to: Part, key: &str, wait: bool) -> Option<Page> {
        let mut body = request(self, number_of(key));
        body["key"] = json!({ "name": key });
        if wait {
            body["wait"] = json!("ready");
        }
        let deadline = if wait { (CONNECT_WAIT, CONNECT_WAIT_BOUND) } else { (CONNECT, CONNECT_BOUND) };
        let (status, answer) = self.post(to, "/ctrl/connect", &body, deadline).await?;
        if status != 200 {
            return None;
        }
        self.seen.answer("connect: 200");
        let path = answer["url"].as_str()?.splitn(4, '/').nth(3)?.to_owned();
        Some(Page {
            path,
            key: key.to_owned(),
            backend: answer["backend_id"].as_str()?.to_owned(),
            fence: answer["fencing_token"].as_u64()?,
            confirmed: answer["drone_answered"] == true,
        })
    }

    pub async fn open(&self, page: &Page, proxy: u8) -> Opened {
        let (to, from) = (Part::Proxy(proxy), now());
        self.tried(page);
        let backend = Some(page.backend.clone());
        let url = format!("ws://{}/{}ws", to.address(), page.path);
        let Ok(opened) = tokio::time::timeout(OPEN, tokio_tungstenite::connect_async(&url)).await else {
            let what = "an open".to_owned();
            let hung = Hung { what, to, backend, starts: false, bound: OPEN_BOUND, from, at: now() };
            self.seen.note().hung.push(hung);
            return Opened::Failed;
        };
        let failed = match opened {
            Ok((mut socket, _)) => match self.greet(page, proxy, &mut socket).await {
                Ok(()) => return Opened::Open(Box::new(socket)),
                Err(None) => {
                    self.seen.answer("open: closed before a greeting");
                    "an open: closed before a greeting".to_owned()
                }
                Err(Some((status, code))) => {
                    self.seen.answer(&format!("open: {status} {code}, by a close code"));
                    if self.is_gone(page, to, status, code) {
                        return Opened::Gone;
                    }
                    format!("an open: {status} {code}{}", page.doubt())
                }
            },
            Err(WsError::Http(response)) => {
                let status = response.status().as_u16();
                let body: Value = response
                    .body()
                    .as_deref()
                    .and_then(|body| serde_json::from_slice(body).ok())
                    .unwrap_or_default();
                let code = body["code"].as_str().unwrap_or("-");
                self.seen.answer(&format!("open: {status} {code}"));
                if self.is_gone(page, to, status, code) {
                    return Opened::Gone;
                }
                format!("an open: {status} {code}{}", page.doubt())
            }
            Err(error) => {
                self.seen.answer("open: no answer");
                format!("an open: {error}")
            }
        };
        self.turned_away(failed, to, backend, from);
        Opened::Failed
    }

    /// Whether a proxy's answer says that the session is over; and whether the proxy may say what it says.
    pub fn is_gone(&self, page: &Page, to: Part, status: u16, code: &str) -> bool {
        if status == 500 {
            self.seen.broken(&format!("{to} answered for {} with 500 {code}", page.backend));
        }
        // Its drone had this backend and this grant, and no grant is taken back here. A page for a person has no code.
        if status == 410 && page.confirmed && !["backend_ended", "page"].contains(&code) {
            self.seen.broken(&format!("{to} says {code} of {}, which its drone had taken", page.backend));
        }
        status == 410
    }

    /// The session says who it is. Otherwise what the proxy says instead, in a close frame, as if it had answered so.
    async fn greet(
        &self,
        page: &Page,
        proxy: u8,
        socket: &mut Socket,
    ) -> Result<(), Option<(u16, &'static str)>> {
        match tokio::time::timeout(ECHO, socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => {
                let who: Value = serde_json::from_str(&text).unwrap_or_default();
                self.is_right(page, proxy, &who);
                Ok(())
            }
            Ok(Some(Ok(Message::Close(Some(frame))))) => Err(match u16::from(frame.code) {
                4410 => Some((410, "backend_ended")),
                // No grant is taken back here.
                4403 => Some((500, "revoked")),
                1013 => Some((503, "busy")),
                _ => None,
            }),
            _ => Err(None),
        }
    }

    /// It must be the one that the URL was given for.
    pub fn is_right(&self, page: &Page, proxy: u8, who: &Value) {
        if who["backend"] == page.backend.as_str()
            && who["fence"] == page.fence
            && who["key"] == page.key.as_str()
        {
            self.seen.note().entered += 1;
        } else {
            let (clock, entered) = (self.seen.clock(), format!("{page:?} through proxy{proxy}"));
            self.seen.note().strangers.push(format!("stranger: {clock} {entered} led to {who}"));
        }
    }

    /// When it was sent. `Err(Some)`: it dropped; `Err(None)`: no echo came in time.
    pub async fn echo(
        &self,
        page: &Page,
        proxy: u8,
        socket: &mut Socket,
        text: &str,
    ) -> Result<u64, Option<String>> {
        let from = now();
        let turn = async {
            socket.send(Message::text(text)).await.map_err(|error| Some(error.to_string()))?;
            match socket.next().await {
                Some(Ok(Message::Text(echo))) if echo.as_str() == text => Ok(from),
                Some(Ok(other)) => Err(Some(format!("{other:?}"))),
                Some(Err(error)) => Err(Some(error.to_string())),
                None => Err(Some("the end".to_owned())),
            }
        };
        match tokio::time::timeout(ECHO, turn).await {
            Ok(turn) => {
                self.seen.note().echoes += usize::from(turn.is_ok());
                turn
            }
            Err(_) => {
                let backend = Some(page.backend.clone());
                let (what, to) = ("an echo".to_owned(), Part::Proxy(proxy));
                let hung = Hung { what, to, backend, starts: false, bound: ECHO_BOUND, from, at: now() };
                self.seen.note().hung.push(hung);
                Err(None)
            }
        }
    }

    /// After the faults: each key must be there for whoever comes, through either proxy.
    pub async fn reach(&self, controller: Part, key: &str, proxy: u8) -> Result<(), String> {
        let page = self.connect(controller, key, true).await.ok_or("no connect")?;
        match self.open(&page, proxy).await {
            Opened::Open(socket) => {
                let mut socket = *socket;
                let echo = self.echo(&page, proxy, &mut socket, "after").await;
                if let Ok(sent) = echo {
                    self.used(&page, proxy, Some(sent), Some(now()), 0);
                }
                let _closed = tokio::time::timeout(ECHO, socket.close(None)).await;
                echo.map(drop).map_err(|how| how.unwrap_or_else(|| "no echo".to_owned()))
            }
            Opened::Gone => Err("its URL is over".to_owned()),
            Opened::Failed => Err("no open".to_owned()),
        }
    }
}
