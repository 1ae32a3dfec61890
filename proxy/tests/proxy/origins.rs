//! Which pages may open a WebSocket: the list that the connect gave, if it gave one.

use crate::backends::{echo_socket, mirror};
use crate::play::{Play, entry};
use crate::raw::{self, Raw};

#[tokio::test]
async fn a_websocket_from_a_page_that_is_not_listed_is_refused() {
    let play = Play::new().await;
    let mut listed = entry(echo_socket(&play.lifecycle).await);
    listed.allowed_origins = vec!["https://app.example.org".into()];
    let (_, token) = play.backend_of(listed);
    for (lines, status) in [
        ("origin: https://app.example.org\r\n", 101),
        ("", 101),
        ("origin: https://evil.example.org\r\n", 403),
        ("origin: null\r\n", 403),
        ("origin: https://app.example.org\r\norigin: https://evil.example.org\r\n", 403),
        ("origin: https://app.example.org.evil\r\n", 403),
    ] {
        let mut client = Raw::connect(play.proxy.address).await;
        let text = format!(
            "GET /{token}/ HTTP/1.1\r\nhost: example.com\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
        );
        client.send(text.as_bytes()).await;
        if status == 403 {
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "wrong_origin"), "{lines}");
            assert_eq!(answer.header("proxy-status"), Some("jetway; error=http_request_denied"));
        } else {
            assert_eq!(client.head().await.status, status, "{lines}");
        }
    }
}

#[tokio::test]
async fn plain_requests_are_the_applications_to_judge() {
    let play = Play::new().await;
    let mut listed = entry(mirror(&play.lifecycle).await.0);
    listed.allowed_origins = vec!["https://app.example.org".into()];
    let (_, token) = play.backend_of(listed);
    let answer = crate::raw::get(play.proxy.address, &format!("/{token}/"), &["origin: https://evil"]).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_path_without_token_is_explained_in_both_lanes() {
    let play = Play::new().await;
    let address = play.proxy.address;
    let page = "sec-fetch-site: same-origin";
    // `connection: close` is none of the plain lane's.
    for lane in ["accept: */*", "connection: close"] {
        let icon = raw::get(address, "/favicon.ico", &[page, lane]).await;
        assert_eq!((icon.status, icon.code().as_str()), (404, "route_not_found"));
        let script = raw::get(address, "/static/app.js?v=1", &[page, lane]).await;
        assert_eq!((script.status, script.code().as_str()), (410, "token_invalid"));
        assert!(script.body.contains("the application asked for an absolute path"), "{}", script.body);
        let typed = raw::get(address, "/static/app.js", &["sec-fetch-site: none", lane]).await;
        assert_eq!((typed.status, typed.code().as_str()), (410, "token_invalid"));
        assert!(typed.body.contains("carries no valid token"), "{}", typed.body);
    }
}
