//! Real small backends, in this process.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use futures_util::{SinkExt, StreamExt};
use jetway_service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, TcpStream};

use crate::raw::Raw;

pub async fn app(lifecycle: &Lifecycle, router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    lifecycle.spawn_until_stopped(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// Hands each connection to `serve`.
pub async fn raw<F, S>(lifecycle: &Lifecycle, serve: S) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(Raw) -> F + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = lifecycle.clone();
    lifecycle.spawn_until_stopped(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tasks.spawn_until_stopped(serve(Raw { stream, buffer: Vec::new() }));
        }
    });
    address
}

/// Echoes messages.
pub async fn echo_socket(lifecycle: &Lifecycle) -> SocketAddr {
    raw(lifecycle, |raw: Raw| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(raw.stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Answers each request with `200` and its own head as the body, and keeps what it saw, byte by
/// byte.
pub async fn mirror(lifecycle: &Lifecycle) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heads = seen.clone();
    let address = raw(lifecycle, move |mut raw: Raw| {
        let heads = heads.clone();
        async move {
            while let Some(head) = next_head(&mut raw).await {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len());
                heads.lock().unwrap().push(head);
                raw.send(answer.as_bytes()).await;
            }
        }
    })
    .await;
    (address, seen)
}

/// The next request's head, or nothing at the end.
pub async fn next_head(raw: &mut Raw) -> Option<String> {
    while !raw.buffer.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut chunk = [0; 4096];
        match tokio::io::AsyncReadExt::read(&mut raw.stream, &mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => raw.buffer.extend_from_slice(&chunk[..read]),
        }
    }
    Some(raw.take_until("\r\n\r\n").await)
}

pub type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

/// A WebSocket through the proxy.
pub async fn open_socket(proxy: SocketAddr, token: &str) -> Socket {
    let stream = TcpStream::connect(proxy).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let url = format!("ws://example.com/{token}/socket");
    tokio_tungstenite::client_async(url, stream).await.unwrap().0
}

/// The status that a close frame says next.
pub async fn goodbye(socket: &mut Socket) -> Option<u16> {
    match socket.next().await {
        Some(Ok(tokio_tungstenite::tungstenite::Message::Close(why))) => why.map(|why| why.code.into()),
        _ => None,
    }
}

pub async fn echoes(socket: &mut Socket, text: &str) {
    socket.send(tokio_tungstenite::tungstenite::Message::text(text)).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), text);
}
