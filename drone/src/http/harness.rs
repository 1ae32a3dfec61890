//! For tests: the server on a real socket, over the agent of [`crate::harness`], and a proxy that
//! has attached.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::{SinkExt, StreamExt};
use jetway_protocol::attach::{Outcome, ToDrone, ToProxy, Uses};
use jetway_protocol::drone_api::{
    BackendView, DIAL_PROTOCOL, FENCING_HEADER, PutBackend, Refusal, RefusalCode,
};
use jetway_protocol::ids::{FencingToken, GrantId, ProxyId};
use jetway_protocol::secret::{Purpose, Secret};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::Gate;
use crate::harness::Harness;
use crate::runtime::fake::Script;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

pub struct Server {
    pub test: Harness,
    pub address: SocketAddr,
    pub http: reqwest::Client,
}

impl Server {
    pub async fn start(script: Script) -> Self {
        let server = Self::not_open(script).await;
        server.0.open(server.1.test.agent.clone());
        server.1.test.agent.strays.looked.store(true, Ordering::Release);
        server.1
    }

    pub async fn not_open(script: Script) -> (Gate, Self) {
        jetway_service::client::install_crypto();
        let test = Harness::new(script);
        let gate = Gate::new(Secret::new(SECRET).unwrap(), test.agent.store.journals.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        super::serve(listener, gate.clone(), &test.lifecycle);
        (gate, Self { test, address, http: reqwest::Client::builder().no_proxy().build().unwrap() })
    }

    pub async fn call(&self, method: &str, path: &str, body: &impl Serialize) -> (StatusCode, String) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, format!("http://{}{path}", self.address));
        let answer = request.bearer_auth(bearer(Purpose::ControllerToDrone)).json(body).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    pub async fn refused(&self, method: &str, path: &str, body: &impl Serialize) -> (u16, RefusalCode) {
        let (status, text) = self.call(method, path, body).await;
        let refusal: Refusal = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text}"));
        (status.as_u16(), refusal.code)
    }

    pub async fn put(&self, id: &str, put: &PutBackend) -> BackendView {
        let (status, text) = self.call("PUT", &format!("/b/{id}"), put).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn view(&self, id: &str) -> BackendView {
        let (status, text) = self.call("GET", &format!("/b/{id}"), &()).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn attach(&self, uses: Vec<Uses>) -> Attached {
        self.attach_as(ProxyId::random(), uses, false).await
    }

    pub async fn attach_as(&self, proxy: ProxyId, uses: Vec<Uses>, more: bool) -> Attached {
        let mut request = format!("ws://{}/attach", self.address).into_client_request().unwrap();
        let credential = format!("Bearer {}", bearer(Purpose::ProxyToDrone));
        request.headers_mut().insert("authorization", credential.parse().unwrap());
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        let mut attached = Attached { socket };
        let hello = ToDrone::Hello {
            protocol: 1,
            proxy,
            name: "p".into(),
            boot_id: self.test.agent.drone.boot_id,
            netns: "net:[1]".into(),
            uses,
            more,
        };
        attached.say(&hello).await;
        assert!(matches!(attached.hear().await, ToProxy::Welcome { direct: true, .. }));
        attached
    }

    pub async fn dial(&self, path: &str, fencing_token: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: d\r\nconnection: upgrade\r\nupgrade: {DIAL_PROTOCOL}\r\n\
             {FENCING_HEADER}: {fencing_token}\r\nauthorization: Bearer {}\r\n\r\n",
            bearer(Purpose::ProxyToDrone)
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        (stream, String::from_utf8(answer).unwrap())
    }
}

pub struct Attached {
    pub socket: tokio_tungstenite::WebSocketStream<TcpStream>,
}

impl Attached {
    /// Ends it as a proxy's machine may: with a code, with none, or without a word.
    pub async fn end(mut self, code: Option<u16>) {
        let frame = |code: u16| CloseFrame { code: code.into(), reason: "".into() };
        if let Some(code) = code {
            let _sent = self.socket.close((code != 0).then(|| frame(code))).await;
        }
    }

    pub async fn say(&mut self, message: &ToDrone) {
        let text = serde_json::to_string(message).unwrap();
        self.socket.send(Message::Text(text.into())).await.unwrap();
    }

    /// The next message that is not a ping.
    pub async fn hear(&mut self) -> ToProxy {
        let next = async {
            loop {
                let Message::Text(text) = self.socket.next().await.unwrap().unwrap() else { continue };
                match serde_json::from_str(text.as_str()).unwrap() {
                    ToProxy::Ping => {}
                    message => return message,
                }
            }
        };
        timeout(Duration::from_secs(20), next).await.unwrap()
    }

    pub async fn ask(&mut self, id: &str, fencing_token: i64, grant: u64) -> Outcome {
        let (backend, fencing_token) = (id.parse().unwrap(), FencingToken(fencing_token));
        self.say(&ToDrone::Ask { ask: 1, backend, fencing_token, grant: GrantId(grant) }).await;
        match self.hear().await {
            ToProxy::Answer { ask: 1, outcome } => outcome,
            other => panic!("{other:?}"),
        }
    }
}

pub fn bearer(purpose: Purpose) -> String {
    Secret::new(SECRET).unwrap().bearer(purpose)
}
