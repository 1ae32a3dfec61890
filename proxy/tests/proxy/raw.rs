//! A client that writes what it likes, and reads what comes, byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::timeout;

const READ_MAX: Duration = Duration::from_secs(10);

/// Counts this process's panics from here on: a runtime catches those of its tasks, and the proxy
/// goes on without them.
pub fn panics() -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let (counted, usual) = (count.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, Ordering::Relaxed);
        usual(panic);
    }));
    count
}

pub struct Raw {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

/// One GET on a connection of its own.
pub async fn get(address: impl ToSocketAddrs, path: &str, lines: &[&str]) -> Answer {
    let mut raw = Raw::connect(address).await;
    raw.get(path, lines).await
}

impl Raw {
    pub async fn connect(address: impl ToSocketAddrs) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() }
    }

    pub async fn get(&mut self, path: &str, lines: &[&str]) -> Answer {
        self.send_get(path, lines).await;
        self.answer().await
    }

    pub async fn send_get(&mut self, path: &str, lines: &[&str]) {
        let mut text = format!("GET {path} HTTP/1.1\r\nhost: example.com\r\n");
        for line in lines {
            text.push_str(line);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        self.send(text.as_bytes()).await;
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// More bytes, or false at the end.
    pub async fn more(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match timeout(READ_MAX, self.stream.read(&mut chunk)).await.expect("nothing came in time") {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.buffer.extend_from_slice(&chunk[..read]);
                true
            }
        }
    }

    /// Exactly so many bytes.
    pub async fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.buffer.len() < bytes {
            assert!(self.more().await, "ended after {:?}", String::from_utf8_lossy(&self.buffer));
        }
        self.buffer.drain(..bytes).collect()
    }

    /// All bytes up to and including `mark`.
    pub async fn take_until(&mut self, mark: &str) -> String {
        loop {
            let found = self.buffer.windows(mark.len()).position(|window| window == mark.as_bytes());
            if let Some(at) = found {
                return String::from_utf8(self.buffer.drain(..at + mark.len()).collect()).unwrap();
            }
            assert!(self.more().await, "ended after {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    /// What still comes, until the other side closes.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(std::mem::take(&mut self.buffer)).unwrap()
    }

    pub async fn head(&mut self) -> Answer {
        let text = self.take_until("\r\n\r\n").await;
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Answer { status, headers, body: String::new() }
    }

    /// A head and the body that it announces.
    pub async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if let Some(length) = answer.header("content-length") {
            let body = self.take(length.parse().unwrap()).await;
            answer.body = String::from_utf8(body).unwrap();
        } else if answer.header("transfer-encoding").is_some() {
            loop {
                let size = self.take_until("\r\n").await;
                let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
                let chunk = self.take(size + 2).await;
                answer.body.push_str(std::str::from_utf8(&chunk[..size]).unwrap());
                if size == 0 {
                    break;
                }
            }
        } else if answer.status != 304 && answer.status != 204 && answer.status != 101 {
            answer.body = self.rest().await;
        }
        answer
    }
}
