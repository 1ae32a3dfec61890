//! As little of an HTTP/1.1 client as a load generator needs: one connection, one request at a time, answers with a length.
//! A client that does more would be measured with what it measures.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// For an answer: longer than any start may take.
pub const ANSWER_MAX: Duration = Duration::from_secs(90);
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// A whole request as bytes; a body is JSON.
pub fn request(method: &str, host: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// What a browser sends to open a WebSocket.
pub fn upgrade(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// Host with port, and path, of an `http://` URL.
pub fn split(url: &str) -> anyhow::Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").with_context(|| format!("not a plain URL: {url}"))?;
    let slash = rest.find('/').unwrap_or(rest.len());
    Ok((&rest[..slash], &rest[slash..]))
}

impl Connection {
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        Self::of(TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?)
    }

    /// From an address of one's own: each has ports of its own.
    pub async fn open_from(source: Ipv4Addr, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        Self::of(socket.connect(address).await.with_context(|| format!("connect to {address}"))?)
    }

    fn of(stream: TcpStream) -> anyhow::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends the request, and waits for its whole answer.
    pub async fn send(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        timeout(ANSWER_MAX, self.exchange(request)).await.context("no answer in time")?
    }

    async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.stream.write_all(request).await?;
        self.answer().await
    }

    /// To the same socket, for another thread. It does not wait for room.
    pub fn writer(&self) -> anyhow::Result<std::net::TcpStream> {
        Ok(self.stream.as_fd().try_clone_to_owned()?.into())
    }

    /// Of a request that was sent.
    pub async fn answer(&mut self) -> anyhow::Result<Answer> {
        let (head, status, length) = self.head().await?;
        while self.buffer.len() < head + length {
            self.more().await?;
        }
        let body = self.buffer[head..head + length].to_vec();
        self.buffer.drain(..head + length);
        Ok(Answer { status, body })
    }

    /// The head's length, the status, and the length of what follows.
    async fn head(&mut self) -> anyhow::Result<(usize, u16, usize)> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let (status, length) = read_head(std::str::from_utf8(&self.buffer[..end])?)?;
                return Ok((end + 4, status, length));
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        ensure!(self.buffer.len() < ANSWER_BYTES_MAX, "the answer is too long");
        let n = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(n > 0, "hung up in the middle of an answer");
        Ok(())
    }

    /// A message through the tunnel and back.
    pub async fn echo(&mut self, message: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(message).await?;
        self.buffer.clear();
        while self.buffer.len() < message.len() {
            self.more().await?;
        }
        ensure!(self.buffer == message, "an echo came back changed");
        Ok(())
    }

    /// Until the tunnel carries: the 101 has come, and bytes come back.
    pub async fn tunnel(&mut self, request: &[u8]) -> anyhow::Result<()> {
        timeout(ANSWER_MAX, async {
            let answer = self.exchange(request).await?;
            ensure!(answer.status == 101, "instead of a tunnel: {}", answer.status);
            self.stream.write_all(b"echo").await?;
            while self.buffer.len() < 4 {
                self.more().await?;
            }
            Ok(())
        })
        .await
        .context("no tunnel in time")?
    }
}

fn read_head(head: &str) -> anyhow::Result<(u16, usize)> {
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let status = status.context("no status line")?;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            return Ok((status, value.trim().parse()?));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("an answer without a length");
        }
    }
    Ok((status, 0))
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{}: {}", self.status, self.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_status_and_length() {
        let read = |head| read_head(head).ok();
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 12\r\nx: y"), Some((200, 12)));
        assert_eq!(read("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket"), Some((101, 0)));
        assert_eq!(read("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"), None);
        assert_eq!(read("nonsense"), None);
    }

    #[test]
    fn a_url_is_split() {
        assert_eq!(split("http://localhost:9090/t/x").unwrap(), ("localhost:9090", "/t/x"));
        assert!(split("https://a/").is_err());
    }
}
