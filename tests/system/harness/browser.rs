//! A real browser: headless Chromium over the DevTools protocol, as little of it as the tests need.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::eventually;
use super::processes::Process;

const STEP: Duration = Duration::from_secs(20);
/// A place that is the same after so long is one to click on.
const STILL: Duration = Duration::from_millis(100);
/// For one look at a page.
const LOOK: Duration = Duration::from_secs(3);
const TROUBLES_MAX: usize = 40;
/// Without these a headless Chromium looks for services that tests have no use for.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];

pub struct Browser {
    process: Process,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_id: u64,
    /// How often it has given a request up because an interface of this machine came or went, as sessions' do.
    pub network_changes: u64,
    /// WebSockets of its windows that have closed.
    pub sockets_closed: u64,
    /// What its windows were answered, once `watch` has been called for them.
    pub answers: Vec<Answer>,
    /// The first requests that its windows lost or were refused, for the reader of a failure.
    pub troubles: Vec<String>,
}

/// The head of an answer, as the browser took it from the network.
#[derive(Debug, Clone)]
pub struct Answer {
    pub url: String,
    pub status: u64,
    pub protocol: String,
    /// The same for all that came by one connection.
    pub connection: u64,
}

/// One window; named by the protocol's session and target ids.
pub struct Window {
    pub session: String,
    pub target: String,
}

impl Browser {
    pub async fn start(directory: &Path) -> anyhow::Result<Self> {
        Self::start_with(directory, &[]).await
    }

    /// With further flags.
    pub async fn start_with(directory: &Path, flags: &[String]) -> anyhow::Result<Self> {
        let program = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .context("no Chromium: scripts/setup --test installs it")?;
        let profile = directory.join("chromium");
        let mut command = Command::new(program);
        command
            .args(FLAGS)
            .args(flags)
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::null());
        let process = Process::start(&directory.join("chromium.log"), &mut command)?;
        let port_file = profile.join("DevToolsActivePort");
        let address = eventually("Chromium opens its port", STEP, async || {
            let text = std::fs::read_to_string(&port_file).map_err(|error| error.to_string())?;
            let mut lines = text.lines();
            match (lines.next(), lines.next()) {
                (Some(port), Some(path)) => Ok(format!("ws://127.0.0.1:{port}{path}")),
                _ => Err(text),
            }
        })
        .await?;
        let (socket, _) = tokio_tungstenite::connect_async(&address).await?;
        let (answers, troubles) = (Vec::new(), Vec::new());
        Ok(Self { process, socket, next_id: 0, network_changes: 0, sockets_closed: 0, answers, troubles })
    }

    pub async fn open(&mut self, url: &str) -> anyhow::Result<Window> {
        self.open_target(json!({ "url": url, "newWindow": true })).await
    }

    /// A window of somebody else's: it shares no cookies with any other.
    pub async fn open_as_another(&mut self, url: &str) -> anyhow::Result<Window> {
        let profile = self.new_profile().await?;
        self.open_in(&profile, url).await
    }

    /// A person's cookies and storage, by their name in the protocol.
    pub async fn new_profile(&mut self) -> anyhow::Result<String> {
        let context = self.call(None, "Target.createBrowserContext", json!({})).await?;
        Ok(context["browserContextId"].as_str().context("browserContextId")?.to_owned())
    }

    /// A window of a profile's.
    pub async fn open_in(&mut self, profile: &str, url: &str) -> anyhow::Result<Window> {
        self.open_target(json!({ "url": url, "newWindow": true, "browserContextId": profile })).await
    }

    /// The window that a page has opened, by a part of its address.
    pub async fn opened(&mut self, part: &str) -> anyhow::Result<Window> {
        let start = std::time::Instant::now();
        loop {
            let targets = self.call(None, "Target.getTargets", json!({})).await?;
            let mut all = targets["targetInfos"].as_array().into_iter().flatten();
            let found = all.find(|target| {
                target["type"] == "page" && target["url"].as_str().is_some_and(|url| url.contains(part))
            });
            if let Some(target) = found.and_then(|target| target["targetId"].as_str()) {
                return self.attach(target).await;
            }
            ensure!(start.elapsed() < STEP, "no window has {part}: {targets}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn open_target(&mut self, parameters: Value) -> anyhow::Result<Window> {
        let created = self.call(None, "Target.createTarget", parameters).await?;
        self.attach(created["targetId"].as_str().context("targetId")?).await
    }

    /// What is open already, a window or a frame of another site.
    pub async fn attach(&mut self, target: &str) -> anyhow::Result<Window> {
        let attached =
            self.call(None, "Target.attachToTarget", json!({ "targetId": target, "flatten": true })).await?;
        let session = attached["sessionId"].as_str().context("sessionId")?.to_owned();
        Ok(Window { session, target: target.to_owned() })
    }

    pub async fn close(&mut self, window: Window) -> anyhow::Result<()> {
        self.call(None, "Target.closeTarget", json!({ "targetId": window.target })).await.map(|_| ())
    }

    /// The value of an expression in the window.
    pub async fn evaluate(&mut self, window: &Window, expression: &str) -> anyhow::Result<Value> {
        self.evaluate_as(window, expression, false).await
    }

    /// The same as if a person had just clicked there: a page may then open windows.
    pub async fn evaluate_clicked(&mut self, window: &Window, expression: &str) -> anyhow::Result<Value> {
        self.evaluate_as(window, expression, true).await
    }

    async fn evaluate_as(
        &mut self,
        window: &Window,
        expression: &str,
        clicked: bool,
    ) -> anyhow::Result<Value> {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": clicked });
        let answer = self.call(Some(&window.session), "Runtime.evaluate", parameters).await?;
        if !answer["exceptionDetails"].is_null() {
            bail!("{expression}: {}", answer["exceptionDetails"]);
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Asks until the expression is true.
    pub async fn until(&mut self, window: &Window, expression: &str) -> anyhow::Result<()> {
        self.until_within(STEP, window, expression).await
    }

    /// The same, for what may take longer than a page's own steps.
    pub async fn until_within(
        &mut self,
        limit: Duration,
        window: &Window,
        expression: &str,
    ) -> anyhow::Result<()> {
        let start = std::time::Instant::now();
        loop {
            // A page that goes away with the question leaves it without an answer.
            let value = match tokio::time::timeout(LOOK, self.evaluate(window, expression)).await {
                Ok(value) => value,
                Err(_) => Err(anyhow::anyhow!("no answer")),
            };
            match &value {
                Ok(Value::Bool(true)) => return Ok(()),
                Ok(_) | Err(_) if start.elapsed() < limit => {
                    tokio::time::sleep(Duration::from_millis(50)).await
                }
                other => {
                    let text = self.evaluate(window, "document.body && document.body.innerText").await;
                    bail!("{expression} is not true: {other:?}; the page says {text:?}")
                }
            }
        }
    }

    /// What the window shows, as a PNG.
    pub async fn screenshot(&mut self, window: &Window) -> anyhow::Result<Vec<u8>> {
        let shot =
            self.call(Some(&window.session), "Page.captureScreenshot", json!({ "format": "png" })).await?;
        let data = shot["data"].as_str().context("a picture")?;
        Ok(data_encoding::BASE64.decode(data.as_bytes())?)
    }

    /// A mouse event, at a place in the window's own pixels.
    pub async fn mouse(
        &mut self,
        window: &Window,
        kind: &str,
        x: f64,
        y: f64,
        pressed: bool,
    ) -> anyhow::Result<()> {
        let button = if pressed { "left" } else { "none" };
        let parameters = json!({ "type": kind, "x": x, "y": y, "button": button, "buttons": i32::from(pressed), "clickCount": 1 });
        self.call(Some(&window.session), "Input.dispatchMouseEvent", parameters).await.map(|_| ())
    }

    /// A click, as a person's, in the middle of the element that the expression gives, once it does.
    pub async fn click(&mut self, window: &Window, element: &str) -> anyhow::Result<()> {
        self.until(window, &format!("({element}) != null")).await?;
        let middle = format!(
            "(() => {{ const r = ({element}).getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        );
        // Where it stays: a page that is still being put together moves it away.
        let mut place = self.evaluate(window, &middle).await?;
        loop {
            tokio::time::sleep(STILL).await;
            let before = std::mem::replace(&mut place, self.evaluate(window, &middle).await?);
            if before == place {
                break;
            }
        }
        let (x, y) = (place[0].as_f64().context("x")?, place[1].as_f64().context("y")?);
        self.mouse(window, "mouseMoved", x, y, false).await?;
        self.mouse(window, "mousePressed", x, y, true).await?;
        self.mouse(window, "mouseReleased", x, y, true).await
    }

    /// Letters, to whatever has the focus, each with its key.
    pub async fn type_text(&mut self, window: &Window, text: &str) -> anyhow::Result<()> {
        for letter in text.chars() {
            self.key(window, json!({ "key": letter, "text": letter })).await?;
        }
        Ok(())
    }

    /// The Enter key, perhaps with Shift (8 in the protocol's modifiers).
    pub async fn enter(&mut self, window: &Window, modifiers: u8) -> anyhow::Result<()> {
        let key = json!({ "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r", "modifiers": modifiers });
        self.key(window, key).await
    }

    async fn key(&mut self, window: &Window, mut key: Value) -> anyhow::Result<()> {
        for kind in ["keyDown", "keyUp"] {
            key["type"] = json!(kind);
            self.call(Some(&window.session), "Input.dispatchKeyEvent", key.clone()).await?;
            if let Some(fields) = key.as_object_mut() {
                fields.remove("text");
            }
        }
        Ok(())
    }

    /// The window's inner size, in pixels.
    pub async fn resize(&mut self, window: &Window, width: u32, height: u32) -> anyhow::Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call(Some(&window.session), "Emulation.setDeviceMetricsOverride", size).await.map(drop)
    }

    /// Goes to an address, with a count of the requests that the window gives up (`network_changes`).
    pub async fn navigate(&mut self, window: &Window, url: &str) -> anyhow::Result<()> {
        self.call(Some(&window.session), "Network.enable", json!({})).await?;
        self.call(Some(&window.session), "Page.navigate", json!({ "url": url })).await.map(drop)
    }

    /// Keeps the window's answers from here on.
    pub async fn watch(&mut self, window: &Window) -> anyhow::Result<()> {
        self.call(Some(&window.session), "Network.enable", json!({})).await.map(drop)
    }

    /// Addresses in the window's history.
    pub async fn history(&mut self, window: &Window) -> anyhow::Result<Vec<String>> {
        let history = self.call(Some(&window.session), "Page.getNavigationHistory", json!({})).await?;
        let entries = history["entries"].as_array().context("entries")?;
        Ok(entries.iter().filter_map(|entry| entry["url"].as_str()).map(str::to_owned).collect())
    }

    pub async fn reload(&mut self, window: &Window) -> anyhow::Result<()> {
        self.call(Some(&window.session), "Page.reload", json!({})).await.map(drop)
    }

    pub async fn end(mut self) -> anyhow::Result<()> {
        let _closing = self.call(None, "Browser.close", json!({})).await;
        let process = &mut self.process;
        eventually("Chromium ends", STEP, async || if process.is_running() { Err("it runs") } else { Ok(()) })
            .await
    }

    /// A command of the protocol, to the browser or to a window.
    pub async fn call(
        &mut self,
        session: Option<&str>,
        method: &str,
        parameters: Value,
    ) -> anyhow::Result<Value> {
        self.next_id += 1;
        let id = self.next_id;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(message.to_string())).await?;
        let answer = async {
            while let Some(frame) = self.socket.next().await {
                let Message::Text(text) = frame? else { continue };
                self.sockets_closed += u64::from(text.contains("\"Network.webSocketClosed\""));
                self.network_changes += u64::from(text.contains("net::ERR_NETWORK_CHANGED"));
                let mut answer: Value = serde_json::from_str(&text)?;
                self.answers.extend(answer_of(&answer));
                self.troubles.extend(trouble(&answer).filter(|_| self.troubles.len() < TROUBLES_MAX));
                // A page that asks whether it may be left: it may.
                if answer["method"] == "Page.javascriptDialogOpening" {
                    let yes = json!({ "id": 0, "sessionId": answer["sessionId"],
                        "method": "Page.handleJavaScriptDialog", "params": { "accept": true } });
                    self.socket.send(Message::text(yes.to_string())).await?;
                }
                if answer["id"] == id {
                    if !answer["error"].is_null() {
                        bail!("{method}: {}", answer["error"]);
                    }
                    return Ok(answer["result"].take());
                }
            }
            bail!("Chromium closed the connection")
        };
        tokio::time::timeout(STEP, answer).await.with_context(|| format!("{method} in time"))?
    }
}

/// The answer that an event of the protocol tells.
fn answer_of(event: &Value) -> Option<Answer> {
    if event["method"] != "Network.responseReceived" {
        return None;
    }
    let response = &event["params"]["response"];
    Some(Answer {
        url: response["url"].as_str()?.to_owned(),
        status: response["status"].as_u64()?,
        protocol: response["protocol"].as_str().unwrap_or_default().to_owned(),
        connection: response["connectionId"].as_u64().unwrap_or_default(),
    })
}

/// A request that was lost or refused, or an exception that no script caught, where an event tells of it.
fn trouble(event: &Value) -> Option<String> {
    let parameters = &event["params"];
    match event["method"].as_str()? {
        "Network.responseReceived" if parameters["response"]["status"].as_u64()? >= 400 => {
            Some(format!("{} {}", parameters["response"]["status"], parameters["response"]["url"]))
        }
        "Network.loadingFailed" if parameters["canceled"] != true => {
            Some(format!("{} ({})", parameters["errorText"], parameters["type"]))
        }
        "Runtime.exceptionThrown" => {
            Some(parameters["exceptionDetails"]["exception"]["description"].as_str()?.to_owned())
        }
        _ => None,
    }
}
