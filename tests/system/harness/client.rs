//! A browser's part: a WebSocket to a session's URL, requests below it, and the status stream.

use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
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
        let opened = tokio::time::timeout(STEP, tokio_tungstenite::connect_async(&url)).await;
        match opened.context("the WebSocket opens in time")? {
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
