//! A WebSocket's handshake that leads to no session: accepted all the same, and closed with the
//! reason. Of a handshake that is refused, a browser tells its page nothing but 1006. No backend
//! hears of it, and it is no use of a session.

use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Body;
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::client::connection::Connection;
use crate::forward::response_body::ResponseBody;
use crate::forward::switch;
use crate::forward::upgrade;
use crate::headers;
use crate::pages::answer;
use crate::problem::Problem;

/// Of 16 bytes in base64 (RFC 6455 §4.1).
const KEY_CHARS: usize = 24;

/// A client's side of one.
#[derive(Debug)]
pub struct WebSocketHandshake {
    client: OnUpgrade,
    answer: HeaderMap,
}

impl WebSocketHandshake {
    /// `None`: it is no handshake as RFC 6455 §4.2.1 or RFC 8441 §5 has it.
    pub fn of<B: Body>(request: &Request<B>) -> Option<Self> {
        let headers = request.headers();
        let mut answer = HeaderMap::new();
        if !switch::is_for_a_websocket(request) {
            if !headers.contains_key(UPGRADE) {
                return None;
            }
            let has_body = !request.body().is_end_stream();
            let wanted = headers::upgrade_wanted(request.version(), request.method(), headers, has_body)?;
            if !wanted.as_bytes().eq_ignore_ascii_case(b"websocket") {
                return None;
            }
            let accept = HeaderValue::try_from(derive_accept_key(key(headers)?)).ok()?;
            answer.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
            answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return None;
        }
        if let Some(protocol) = first_protocol(headers) {
            answer.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        Some(Self { client: request.extensions().get::<OnUpgrade>()?.clone(), answer })
    }

    /// Accepts it, and closes it with the problem's close code. `None`: it has none.
    pub fn close(self, problem: &Problem, connection: &Connection) -> Option<Response<ResponseBody>> {
        let code = problem.close_code()?;
        let Self { client, answer } = self;
        let mut response = Response::new(ResponseBody::own(bytes::Bytes::new()));
        *response.version_mut() = Version::HTTP_11;
        *response.status_mut() = match answer.contains_key(UPGRADE) {
            true => StatusCode::SWITCHING_PROTOCOLS,
            false => StatusCode::OK,
        };
        *response.headers_mut() = answer;
        answer::mark(response.headers_mut(), problem);
        upgrade::close(client, code, connection);
        tracing::debug!(?code, "accepted a WebSocket only to close it");
        Some(response)
    }
}

fn key(headers: &HeaderMap) -> Option<&[u8]> {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else { return None };
    let key = key.as_bytes();
    let digits = key.strip_suffix(b"==").filter(|_| key.len() == KEY_CHARS)?;
    digits.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte)).then_some(key)
}

/// Browsers fail a connection for which none of the subprotocols that they offered was chosen
/// (WHATWG WebSockets, "establish a WebSocket connection").
fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL)?.as_bytes();
    let first = offered.split(|byte| *byte == b',').next()?.trim_ascii();
    HeaderValue::from_bytes(first).ok().filter(|first| !first.is_empty())
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    type Lines = &'static [(&'static str, &'static str)];

    const GOOD: Lines = &[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    fn request(lines: Lines) -> http::request::Builder {
        lines.iter().fold(Request::get("/"), |request, (name, value)| request.header(*name, *value))
    }

    /// What would be answered, but for the client's socket, which only a server has.
    fn is_one<B: Body>(mut request: Request<B>) -> bool {
        let client = hyper::upgrade::on(Response::new(()));
        request.extensions_mut().insert(client);
        WebSocketHandshake::of(&request).is_some()
    }

    #[test]
    fn a_handshake_is_one_by_the_rules() {
        let whole = |lines| request(lines).body(Empty::<bytes::Bytes>::new()).unwrap();
        assert!(is_one(whole(GOOD)));
        let without = |name: &str| {
            let mut request = whole(GOOD);
            request.headers_mut().remove(name);
            request
        };
        for (name, _) in GOOD {
            assert!(!is_one(without(name)), "without {name}");
        }
        for (name, value) in [
            ("upgrade", "h2c"),
            ("upgrade", "websocket, chat"),
            ("connection", "close"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZSE="),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25j ZQ=="),
        ] {
            let mut request = whole(GOOD);
            request.headers_mut().insert(name, value.parse().unwrap());
            assert!(!is_one(request), "{name}: {value}");
        }
        let mut twice = whole(GOOD);
        twice.headers_mut().append("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        assert!(!is_one(twice));
        assert!(!is_one(request(GOOD).method("POST").body(Empty::<bytes::Bytes>::new()).unwrap()));
        assert!(!is_one(request(GOOD).body(Full::new(bytes::Bytes::from_static(b"body"))).unwrap()));
    }

    #[test]
    fn the_first_subprotocol_is_chosen() {
        for (offered, chosen) in [("chat", "chat"), (" chat , superchat", "chat"), ("", ""), (", chat", "")] {
            let headers = HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, offered.parse().unwrap())]);
            let first = first_protocol(&headers);
            assert_eq!(first.map_or(String::new(), |first| first.to_str().unwrap().to_owned()), chosen);
        }
    }
}
