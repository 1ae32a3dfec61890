//! A browser's part: a WebSocket to a session's URL or on its host, requests below it, and the status stream.

use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Longer than any healthy step takes on a busy machine.
const STEP: Duration = Duration::from_secs(20);

pub struct Session {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Session {
    /// Opens the echo WebSocket below a URL that connect gave.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let url = format!("{}ws", url.replacen("http://", "ws://", 1));
        Self::opened(tokio_tungstenite::connect_async(&url)).await
    }

    async fn opened<T>(
        opening: impl Future<Output = Result<(WebSocketStream<MaybeTlsStream<TcpStream>>, T), Error>>,
    ) -> anyhow::Result<Self> {
        match tokio::time::timeout(STEP, opening).await.context("the WebSocket opens in time")? {
            Ok((socket, _)) => Ok(Self { socket }),
            // The proxy says there why it has refused.
            Err(Error::Http(refusal)) => {
                bail!(
                    "the WebSocket opens: {}, {:?}",
                    refusal.status(),
                    refusal.headers().get("proxy-status")
                )
            }
            Err(error) => Err(error).context("the WebSocket opens"),
        }
    }

    pub async fn echo(&mut self, text: &str) -> anyhow::Result<()> {
        self.socket.send(Message::text(text)).await?;
        let answer = tokio::time::timeout(STEP, self.socket.next()).await.context("an echo in time")?;
        match answer {
            Some(Ok(Message::Text(echo))) if echo.as_str() == text => Ok(()),
            other => bail!("instead of the echo of {text:?} came {other:?}"),
        }
    }

    pub async fn say(&mut self, text: &str) -> anyhow::Result<()> {
        Ok(self.socket.send(Message::text(text)).await?)
    }

    pub async fn close(mut self) -> anyhow::Result<()> {
        self.socket.close(None).await?;
        // Until the server has closed too: only then is it over.
        while let Ok(Some(Ok(_))) = tokio::time::timeout(STEP, self.socket.next()).await {}
        Ok(())
    }

    /// Reads on to the end, which must come by the deadline; the status of a close frame, if that is how it came.
    pub async fn close_code(&mut self, deadline: Duration) -> anyhow::Result<Option<u16>> {
        let code = async {
            loop {
                match self.socket.next().await {
                    None | Some(Err(_)) => return None,
                    Some(Ok(Message::Close(why))) => return why.map(|why| why.code.into()),
                    Some(Ok(_)) => {}
                }
            }
        };
        tokio::time::timeout(deadline, code).await.context("the WebSocket is still open")
    }

    /// Waits until the other side ends the connection.
    pub async fn ended(&mut self, deadline: Duration) -> anyhow::Result<()> {
        self.close_code(deadline).await.map(drop)
    }
}

/// A place on a session's own host, as a browser has it that has entered: the host, and the cookie.
/// Of plain HTTP: the host is a name below `localhost`, and leads to this machine at any port.
#[derive(Debug, Clone)]
pub struct Place {
    /// With its port, as `Host` has it.
    pub host: String,
    cookie: String,
    port: u16,
}

impl Place {
    /// Follows an entering URL as far as to the cookie.
    pub async fn enter(http: &reqwest::Client, url: &str) -> anyhow::Result<Self> {
        let url = reqwest::Url::parse(url)?;
        let (name, port) = (url.host_str().context("a host")?, url.port().context("a port")?);
        let here = format!("http://127.0.0.1:{port}{}?{}", url.path(), url.query().unwrap_or_default());
        let host = format!("{name}:{port}");
        let answer = http.get(here).header("host", &host).timeout(STEP).send().await?;
        let said = format!("{answer:?}");
        let set = answer.headers().get_all("set-cookie").iter().filter_map(|set| set.to_str().ok());
        let cookie = set
            .filter_map(|set| set.split(';').next())
            .find(|pair| pair.strip_prefix("__Host-jetway=").is_some_and(|value| !value.is_empty()));
        Ok(Self { cookie: cookie.context(said)?.to_owned(), host, port })
    }

    /// The same by way of another proxy, which listens at this port.
    pub fn at(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    /// Opens the echo WebSocket at `/ws`, as a page of the session does.
    pub async fn open(&self) -> anyhow::Result<Session> {
        let mut request = format!("ws://{}/ws", self.host).into_client_request()?;
        request.headers_mut().insert("origin", format!("http://{}", self.host).parse()?);
        request.headers_mut().insert("cookie", self.cookie.parse()?);
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        Session::opened(tokio_tungstenite::client_async(request, MaybeTlsStream::Plain(stream))).await
    }
}

/// Server-Sent Events as Plane's client reads them: LF, `data:` and `id:` lines, a blank line dispatches.
pub struct SseStream {
    response: reqwest::Response,
    buffer: String,
}

impl SseStream {
    pub async fn open(
        http: &reqwest::Client,
        url: &str,
        last_event_id: Option<&str>,
    ) -> anyhow::Result<Self> {
        let mut request = http.get(url).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = tokio::time::timeout(Duration::from_secs(2), request.send())
            .await
            .context("headers at once")??;
        if response.status() != 200 {
            bail!("the stream answered {}", response.status());
        }
        Ok(Self { response, buffer: String::new() })
    }

    /// The next event's data, and its id.
    pub async fn next(&mut self, deadline: Duration) -> anyhow::Result<(Value, String)> {
        tokio::time::timeout(deadline, self.read()).await.context("an event in time")?
    }

    async fn read(&mut self) -> anyhow::Result<(Value, String)> {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let event: String = self.buffer.drain(..end + 2).collect();
                let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                if let Some(data) = line("data:") {
                    return Ok((serde_json::from_str(data)?, line("id:").unwrap_or_default().to_owned()));
                }
            }
            match self.response.chunk().await? {
                Some(chunk) => self.buffer.push_str(std::str::from_utf8(&chunk)?),
                None => bail!("the stream ended"),
            }
        }
    }
}
