//! Clients, as pages are: ask for a key's session, open its WebSocket, check who answers, talk, leave in one of several ways,
//! come back. Each notes what it saw; whether that was right is the checker's business.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::places::{CONTROLLERS, PROXIES, Part};
use crate::pools::request;
use crate::schedule::Dice;
use crate::seen::{Asked, Dropped, Hung, Refused, SECOND, Seen, TurnedAway, Wish, now};

/// A connect: 20 s for a stopping key, and what else it may do; with `wait` 30 s more.
const CONNECT: Duration = Duration::from_secs(40);
const CONNECT_WAIT: Duration = Duration::from_secs(75);
/// An open: the proxy holds it for 20 s, and its own dials have deadlines.
const OPEN: Duration = Duration::from_secs(40);
const ECHO: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(30);
/// What each may take where nothing is wrong: a stopping key is waited for 20 s, `wait` is 30 s, a proxy holds for 20 s.
const CONNECT_BOUND: u64 = 30 * SECOND;
const CONNECT_WAIT_BOUND: u64 = 60 * SECOND;
const OPEN_BOUND: u64 = 25 * SECOND;
const STOP_BOUND: u64 = 10 * SECOND;
const ECHO_BOUND: u64 = 5 * SECOND;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What clients share.
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

pub struct Client {
    number: u64,
    dice: Dice,
    shore: Arc<Shore>,
}

/// How an open ended.
enum Opened {
    Open(Box<Socket>),
    /// The URL's session is over.
    Gone,
    Failed,
}

impl Client {
    pub fn new(number: u64, seed: u64, shore: Arc<Shore>) -> Self {
        Self { number, dice: Dice::new(seed ^ (number << 32)), shore }
    }

    /// Comes and goes until it is told to stop.
    pub async fn live(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let key = format!("key-{}", self.dice.below(self.shore.keys));
            tokio::select! {
                () = self.visit(&key) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn pause(&mut self, ms: (u64, u64)) {
        tokio::time::sleep(Duration::from_millis(self.dice.between(ms))).await;
    }

    async fn visit(&mut self, key: &str) {
        let controller =
            Part::Controller(1 + u8::try_from(self.dice.below(u64::from(CONTROLLERS))).unwrap_or(0));
        let (wait, asked) = (self.dice.one_in(2), now());
        let Some(page) = self.shore.connect(controller, key, wait).await else {
            return self.pause((200, 1500)).await;
        };
        // A page that lost its connection comes back to the same URL until it is told that this is over.
        for turn in 0..8 {
            let proxy = 1 + u8::try_from(self.dice.below(u64::from(PROXIES))).unwrap_or(0);
            match self.shore.open(&page, proxy).await {
                Opened::Open(socket) => {
                    if self.talk(&page, proxy, *socket).await {
                        break;
                    }
                }
                Opened::Gone => {
                    if turn == 0 {
                        let what = if page.confirmed {
                            "a fresh URL was over"
                        } else {
                            "an unconfirmed URL was over"
                        };
                        self.shore.refused(what, controller, !page.confirmed, &page.backend, asked);
                    }
                    break;
                }
                Opened::Failed => {}
            }
            self.pause((100, 1000)).await;
        }
        self.pause((100, 2000)).await;
    }

    /// True where the client left because it wanted to.
    async fn talk(&mut self, page: &Page, proxy: u8, mut socket: Socket) -> bool {
        let opened = now();
        let until = tokio::time::Instant::now() + Duration::from_millis(self.dice.between((300, 9000)));
        let mut count = 0_u64;
        while tokio::time::Instant::now() < until {
            let text = format!("{}-{count}", self.number);
            count += 1;
            match self.shore.echo(page, proxy, &mut socket, &text).await {
                Ok(()) => {}
                Err(Some(how)) => {
                    let dropped = Dropped { backend: page.backend.clone(), proxy, opened, at: now(), how };
                    self.shore.seen.note().dropped.push(dropped);
                    return false;
                }
                Err(None) => return false,
            }
            self.pause((50, 600)).await;
        }
        match self.dice.below(20) {
            0 | 1 => {
                self.shore.wish(page, Wish::Exit);
                let _sent = socket.send(Message::text("exit")).await;
            }
            2 | 3 => self.stop(page).await,
            // The browser's tab is killed.
            4..=7 => drop(socket),
            _ => {
                let _closed = tokio::time::timeout(ECHO, socket.close(None)).await;
            }
        }
        true
    }

    async fn stop(&mut self, page: &Page) {
        let controller =
            Part::Controller(1 + u8::try_from(self.dice.below(u64::from(CONTROLLERS))).unwrap_or(0));
        let how = if self.dice.one_in(2) { "soft" } else { "hard" };
        self.shore.wish(page, Wish::Stop);
        let path = format!("/ctrl/b/{}/{how}-terminate", page.backend);
        self.shore.post(controller, &path, &Value::Null, (STOP, STOP_BOUND)).await;
    }
}

impl Shore {
    fn wish(&self, page: &Page, wish: Wish) {
        self.seen.note().asked.push(Asked { backend: page.backend.clone(), wish, at: now() });
    }

    fn refused(&self, what: &str, by: Part, unconfirmed: bool, backend: &str, from: u64) {
        let refused =
            Refused { what: what.to_owned(), by, unconfirmed, backend: backend.to_owned(), from, at: now() };
        self.seen.say(&format!("{backend}: {what}"));
        self.seen.note().refused.push(refused);
    }

    fn turned_away(&self, what: String, to: Part, backend: Option<String>, from: u64) {
        self.seen.note().turned_away.push(TurnedAway { what, to, backend, from, at: now() });
    }

    async fn post(
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
                self.seen.note().hung.push(Hung { what, to, backend: None, bound, from, at: now() });
                return None;
            }
        };
        match &answer {
            Some((status, _)) if *status < 300 => {}
            Some((status, body)) => {
                let code = body["code"].as_str().unwrap_or("-");
                self.seen.answer(&format!("{status} {code}"));
                let names_none = code == "pool_not_found";
                if (matches!(*status, 502..=504) || names_none) && code != "start_failed" {
                    let backend = body["backend_id"].as_str().map(str::to_owned);
                    self.turned_away(format!("{status} {code}"), to, backend, from);
                }
                if code == "start_failed" {
                    let backend = body["backend_id"].as_str().unwrap_or("-");
                    self.refused(&format!("did not start: {body}"), to, false, backend, from);
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
        let number: u64 = key.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        let mut body = request(self, number);
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

    async fn open(&self, page: &Page, proxy: u8) -> Opened {
        let (to, from) = (Part::Proxy(proxy), now());
        let backend = Some(page.backend.clone());
        let url = format!("ws://{}/{}ws", to.address(), page.path);
        let Ok(opened) = tokio::time::timeout(OPEN, tokio_tungstenite::connect_async(&url)).await else {
            let what = "an open".to_owned();
            let hung = Hung { what, to, backend, bound: OPEN_BOUND, from, at: now() };
            self.seen.note().hung.push(hung);
            return Opened::Failed;
        };
        let failed = match opened {
            Ok((mut socket, _)) => match self.greet(page, proxy, &mut socket).await {
                Ok(()) => return Opened::Open(Box::new(socket)),
                Err(failed) => failed,
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
                if status == 500 {
                    self.seen.broken(&format!("{to} answered an open 500 {body}"));
                }
                if status == 410 {
                    // Its drone had this backend and this grant, and nobody takes a grant back here.
                    if page.confirmed && code != "backend_ended" {
                        self.seen.broken(&format!(
                            "{to} says {code} of {}, which its drone had taken",
                            page.backend
                        ));
                    }
                    return Opened::Gone;
                }
                format!("an open: {status} {code}")
            }
            Err(error) => {
                self.seen.answer("open: no answer");
                format!("an open: {error}")
            }
        };
        self.turned_away(failed, to, backend, from);
        Opened::Failed
    }

    /// The session says who it is, and it must be the one that the URL was given for.
    async fn greet(&self, page: &Page, proxy: u8, socket: &mut Socket) -> Result<(), String> {
        let Ok(Some(Ok(Message::Text(text)))) = tokio::time::timeout(ECHO, socket.next()).await else {
            self.seen.answer("open: closed before a greeting");
            return Err("an open: closed before a greeting".to_owned());
        };
        let who: Value = serde_json::from_str(&text).unwrap_or_default();
        if who["backend"] == page.backend.as_str()
            && who["fence"] == page.fence
            && who["key"] == page.key.as_str()
        {
            self.seen.note().entered += 1;
        } else {
            let (clock, entered) = (self.seen.clock(), format!("{page:?} through proxy{proxy}"));
            self.seen.note().strangers.push(format!("stranger: {clock} {entered} led to {who}"));
        }
        Ok(())
    }

    /// `Err(Some)`: it dropped; `Err(None)`: no echo came in time.
    async fn echo(
        &self,
        page: &Page,
        proxy: u8,
        socket: &mut Socket,
        text: &str,
    ) -> Result<(), Option<String>> {
        let from = now();
        let turn = async {
            socket.send(Message::text(text)).await.map_err(|error| Some(error.to_string()))?;
            match socket.next().await {
                Some(Ok(Message::Text(echo))) if echo.as_str() == text => Ok(()),
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
                let hung = Hung { what, to, backend, bound: ECHO_BOUND, from, at: now() };
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
                let _closed = tokio::time::timeout(ECHO, socket.close(None)).await;
                echo.map_err(|how| how.unwrap_or_else(|| "no echo".to_owned()))
            }
            Opened::Gone => Err("its URL is over".to_owned()),
            Opened::Failed => Err("no open".to_owned()),
        }
    }
}
