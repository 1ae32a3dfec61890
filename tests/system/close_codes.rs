//! What the client of an open WebSocket hears of every way in which a session ends, and what one
//! hears that opens a WebSocket to what is over.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use futures_util::{SinkExt, StreamExt};
use jetway_protocol::time::UnixMicros;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::browser::Browser;
use crate::harness::{Options, Session, Stack, with_stack};

/// Ends of one kind at a time: what a small machine starts at once.
const TOGETHER: usize = 4;
/// `JETWAY_TEST_ENDS=20` runs more of each kind, [`TOGETHER`] at a time.
const ENDS: usize = TOGETHER;
const SOON: Duration = Duration::from_secs(20);

/// A way to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Exits,
    Crashes,
    IsStopped,
    IsKilled,
    LivesItsTime,
}

impl Way {
    const ALL: [Way; 5] = [Way::Exits, Way::Crashes, Way::IsStopped, Way::IsKilled, Way::LivesItsTime];

    fn reason(self) -> &'static str {
        match self {
            Way::Exits => "exited",
            Way::Crashes => "crashed",
            Way::IsStopped | Way::IsKilled => "external",
            Way::LivesItsTime => "lifetime",
        }
    }

    fn spawn(self) -> Value {
        match self {
            Way::LivesItsTime => json!({ "lifetime_limit_seconds": 5 }),
            Way::Exits | Way::Crashes | Way::IsStopped | Way::IsKilled => json!({}),
        }
    }

    async fn end(
        self,
        stack: &Stack,
        backend: &str,
        session: &mut Session,
        number: usize,
    ) -> anyhow::Result<()> {
        let verb = match self {
            Way::Exits => return session.say("exit 0").await,
            // By a status, or by a signal.
            Way::Crashes => return session.say(["exit 7", "abort"][number % 2]).await,
            Way::LivesItsTime => return Ok(()),
            Way::IsStopped => "soft-terminate",
            Way::IsKilled => "hard-terminate",
        };
        let (status, body) = stack.post(&format!("/ctrl/b/{backend}/{verb}"), &Value::Null).await?;
        ensure!(status == 200, "{verb}: {status} {body}");
        Ok(())
    }
}

/// One session that ends under an open WebSocket; returns how late its client heard of the end, in
/// milliseconds.
async fn one(stack: &Stack, way: Way, number: usize) -> anyhow::Result<i64> {
    let key = format!("{way:?}-{number}");
    let request = stack.request(&key, &json!({ "MODE": "mortal" }), &way.spawn());
    let answer = stack.connect(&request).await?;
    let text = |name: &str| answer[name].as_str().context(name.to_owned());
    let (backend, url) = (text("backend_id")?, text("url")?);
    let mut session = Session::open(url).await?;
    session.echo("open").await?;
    way.end(stack, backend, &mut session, number).await?;
    // Every other client goes on typing, so that something is unread when its application dies.
    let types = number % 4 >= 2;
    let (mut says, mut hears) = session.socket.split();
    let typing = async {
        while types && says.send(Message::binary(vec![7; 500])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        std::future::pending::<()>().await;
    };
    let heard = async {
        loop {
            match hears.next().await {
                Some(Ok(Message::Close(why))) => {
                    return Ok(why.map(|why| (u16::from(why.code), why.reason.to_string())));
                }
                Some(Ok(_)) => {}
                None => return Ok(None),
                Some(Err(error)) => return Err(error).with_context(|| format!("{way:?} {number}")),
            }
        }
    };
    let heard = tokio::select! {
        heard = tokio::time::timeout(SOON, heard) => heard.context("an end in time")??,
        () = typing => None,
    };
    let at = UnixMicros::now().0 / 1000;
    let expect = (4410, way.reason().to_owned());
    ensure!(heard.as_ref() == Some(&expect), "{way:?} {number}: {heard:?}");
    let view = stack.ended(backend, SOON).await?;
    ensure!(view["end_reason"] == way.reason(), "{view}");
    let status = stack.status(backend).await?;
    ensure!(status["end_reason"] == way.reason(), "{status}");
    ensure!(matches!(way, Way::Exits | Way::Crashes) == status["termination_reason"].is_null(), "{status}");
    // And whoever comes after the end.
    let code = Session::open(url).await?.close_code(SOON).await?;
    ensure!(code == Some(4410), "{way:?} {number}, afterwards: {code:?}");
    Ok(at - view["ended_at"].as_i64().context("when it ended")?)
}

#[test]
fn an_open_socket_is_told_of_every_kind_of_end() {
    let ends = std::env::var("JETWAY_TEST_ENDS").ok().and_then(|ends| ends.parse().ok()).unwrap_or(ENDS);
    with_stack(Options::default(), async |stack| {
        for way in Way::ALL {
            let mut late = Vec::new();
            for first in (0..ends).step_by(TOGETHER) {
                let numbers = first..ends.min(first + TOGETHER);
                late.extend(try_join_all(numbers.map(|number| one(stack, way, number))).await?);
            }
            late.sort_unstable();
            let (half, last) = (late[late.len() / 2], late[late.len() - 1]);
            println!(
                "figure: {way:?}: {} of {ends} heard 4410 {}, {half} ms after the end, {last} at most",
                late.len(),
                way.reason()
            );
        }
        Ok(())
    });
}

#[test]
fn a_browser_sees_why_a_socket_does_not_open() {
    with_stack(Options::default(), async |stack| {
        let mut browser = Browser::start(&stack.directory).await?;
        let mut request = stack.request("page", &json!({}), &json!({}));
        let page = stack.connect(&request).await?["url"].as_str().context("url")?.to_owned();
        request["user"] = json!("ada");
        let hers = stack.connect(&request).await?;
        let body = json!({ "backend_id": hers["backend_id"], "user": "ada" });
        let (status, answer) = stack.post("/ctrl/b/revoke", &body).await?;
        ensure!(status == 200, "{answer}");
        let over = stack.connect(&stack.request("over", &json!({ "MODE": "mortal" }), &json!({}))).await?;
        let (backend, ended) =
            (over["backend_id"].as_str().context("id")?, over["url"].as_str().context("url")?);
        let mut session = Session::open(ended).await?;
        session.say("exit 7").await?;
        stack.ended(backend, SOON).await?;
        let window = browser.open(&page).await?;
        browser.until(&window, "document.body.innerText === 'hello'").await?;
        let revoked = hers["url"].as_str().context("url")?;
        for (url, code, reason) in [(ended, 4410, "crashed"), (revoked, 4403, "revoked")] {
            let url = format!("{}ws", url.replacen("http://", "ws://", 1));
            for (offered, chosen) in [("[]", ""), ("['chat', 'superchat']", "chat")] {
                let script = format!(
                    "window.heard = ''; {{ const socket = new WebSocket('{url}', {offered}); \
                     socket.onclose = ({{ code, reason, wasClean }}) => \
                     heard = [code, reason, wasClean, socket.protocol].join(' '); }}"
                );
                browser.evaluate(&window, &script).await?;
                browser.until(&window, "heard !== ''").await?;
                let heard = browser.evaluate(&window, "heard").await?;
                ensure!(heard == format!("{code} {reason} true {chosen}"), "{offered}: {heard}");
            }
        }
        browser.end().await
    });
}
