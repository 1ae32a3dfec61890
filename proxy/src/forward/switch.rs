//! A client's wish to speak something else: HTTP/1.1's `Upgrade`, or HTTP/2's extended CONNECT (RFC
//! 8441). A backend is asked the first way in either case.

use http::header::{HeaderMap, SEC_WEBSOCKET_ACCEPT};
use http::{Method, Request, Version};
use hyper::body::{Body, Incoming};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::headers::{self, Upgrade};
use crate::problem::Problem;

/// The client's side of the switch that it asked for.
#[derive(Debug)]
pub struct Switch {
    pub client: OnUpgrade,
    pub is_websocket: bool,
    /// The backend's proof that it has understood, where the client cannot check it.
    accept: Option<String>,
}

pub struct SwitchRequest {
    switch: Switch,
    upgrade: Upgrade,
}

impl SwitchRequest {
    /// `None`: it is a request like any other.
    pub fn of(request: &mut Request<Incoming>) -> Result<Option<Self>, Problem> {
        if request.method() == Method::CONNECT {
            return Self::by_connect(request).map(Some);
        }
        let has_body = !request.body().is_end_stream();
        let wanted =
            headers::upgrade_wanted(request.version(), request.method(), request.headers(), has_body);
        Ok(wanted.map(|protocol| {
            let is_websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
            Self {
                switch: Switch { client: hyper::upgrade::on(request), is_websocket, accept: None },
                upgrade: Upgrade { protocol, key: None },
            }
        }))
    }

    fn by_connect(request: &mut Request<Incoming>) -> Result<Self, Problem> {
        if !is_for_a_websocket(request) {
            return Err(Problem::BadRequest("CONNECT is for WebSockets over HTTP/2 (RFC 8441) alone"));
        }
        let key = generate_key();
        let accept = Some(derive_accept_key(key.as_bytes()));
        Ok(Self {
            switch: Switch { client: hyper::upgrade::on(request), is_websocket: true, accept },
            upgrade: Upgrade { protocol: http::HeaderValue::from_static("websocket"), key: Some(key) },
        })
    }

    pub fn into_parts(self) -> (Switch, Upgrade) {
        (self.switch, self.upgrade)
    }
}

impl Switch {
    pub fn is_connect(&self) -> bool {
        self.accept.is_some()
    }

    /// Whether the answer is to this wish.
    pub fn is_answered_by(&self, headers: &HeaderMap) -> bool {
        self.accept.as_ref().is_none_or(|accept| {
            headers.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|given| given.as_bytes() == accept.as_bytes())
        })
    }
}

pub fn is_for_a_websocket<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT
        && request.version() == Version::HTTP_2
        && request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
}
