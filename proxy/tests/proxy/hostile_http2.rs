//! What no good client of HTTP/2 sends: each is refused by a status, by the reset of its stream or
//! by the end of its connection, and a backend sees nothing of it.

use h2::Reason;
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::backends::{mirror, next_head, raw};
use crate::http2_client::{Http2, IN_TIME, head, request, whole};
use crate::http2_frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, Heard, SETTINGS, fields, frame,
};
use crate::play::Play;
use crate::raw::Raw;

type Lines = Vec<(String, String)>;

fn malformed() -> Heard {
    Heard::Reset(Reason::PROTOCOL_ERROR)
}

/// Each head, and what becomes of it.
fn heads(path: &str) -> Vec<(&'static str, Lines, Heard)> {
    let usual = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "example.com")];
    let with = |more: &[(&'static str, &'static str)]| -> Lines {
        let own = |lines: &[(&str, &str)]| -> Lines {
            lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let replaced = |name: &str| more.iter().any(|(given, _)| *given == name && name != ":path");
        let kept: Vec<_> = usual.iter().filter(|(name, _)| !replaced(name)).copied().collect();
        let (pseudo, other): (Vec<_>, Vec<_>) = more.iter().partition(|(name, _)| name.starts_with(':'));
        [own(&pseudo), own(&kept), own(&other)].concat()
    };
    vec![
        ("usual", with(&[]), Heard::Status(200)),
        ("Host as in the target", with(&[("host", "example.com")]), Heard::Status(200)),
        ("no authority, but Host", with(&[(":authority", ""), ("host", "example.com")]), malformed()),
        ("another Host", with(&[("host", "b")]), Heard::Status(400)),
        ("two Hosts", with(&[("host", "example.com"), ("host", "example.com")]), Heard::Status(400)),
        ("user in the authority", with(&[(":authority", "u@a")]), Heard::Status(400)),
        ("path in the authority", with(&[(":authority", "a/b")]), malformed()),
        ("space in the authority", with(&[(":authority", "a b")]), malformed()),
        ("a line end in the authority", with(&[(":authority", "a\r\nx: y")]), malformed()),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")]), malformed()),
        ("connection", with(&[("connection", "close")]), malformed()),
        ("keep-alive", with(&[("keep-alive", "1")]), malformed()),
        ("proxy-connection", with(&[("proxy-connection", "x")]), malformed()),
        ("upgrade", with(&[("upgrade", "websocket")]), malformed()),
        ("te", with(&[("te", "gzip")]), malformed()),
        ("te twice", with(&[("te", "trailers"), ("te", "chunked")]), malformed()),
        ("te: trailers", with(&[("te", "trailers")]), Heard::Status(200)),
        ("upper case", with(&[("X-Upper", "1")]), malformed()),
        ("a line end in a value", with(&[("x", "a\r\nx-verified-username: root")]), malformed()),
        ("a line feed in a value", with(&[("x", "a\nb")]), malformed()),
        ("a zero byte in a value", with(&[("x", "a\0b")]), malformed()),
        ("a line end in a name", with(&[("x: y\r\nz", "a")]), malformed()),
        ("a space in a name", with(&[("content length", "5")]), malformed()),
        ("a colon in a name", with(&[("x:y", "5")]), malformed()),
        ("an empty name", with(&[("", "5")]), malformed()),
        ("white space before a value", with(&[("x", " a")]), Heard::Status(400)),
        ("white space after a value", with(&[("x", "a\t")]), Heard::Status(400)),
        ("a method with a line end", with(&[(":method", "GET / HTTP/1.1\r\n")]), malformed()),
        ("an empty method", with(&[(":method", "")]), malformed()),
        ("CONNECT to elsewhere", with(&[(":method", "CONNECT")]), malformed()),
        ("an unknown pseudo field", with(&[(":x", "y")]), malformed()),
        ("an answer's pseudo field", with(&[(":status", "200")]), malformed()),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "0")]), Heard::Status(400)),
        ("a length and no data", with(&[("content-length", "5")]), malformed()),
        ("no length", with(&[("content-length", "x")]), malformed()),
        ("a signed length", with(&[("content-length", "+0")]), malformed()),
    ]
}

#[tokio::test]
async fn heads_that_mean_two_things() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    for (what, lines, expect) in heads(&format!("/{token}/")) {
        seen.lock().unwrap().clear();
        let lines: Vec<(&str, &str)> =
            lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut client = Frames::connect(&play).await;
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&lines))).await;
        let heard = client.hears().await;
        let passed = heard == Heard::Status(200);
        // A decoder that meets bytes which cannot stand in a header may as well give the connection
        // up.
        let refused =
            |heard: &Heard| matches!(heard, Heard::Reset(_) | Heard::End(Some(_)) | Heard::Status(400));
        let as_expected = heard == expect || (expect == malformed() && refused(&heard));
        assert!(as_expected, "{what}: {heard:?} and not {expect:?}");
        assert_eq!(seen.lock().unwrap().len(), usize::from(passed), "{what}: what the backend saw");
    }
    let odd_path = format!("/{token}/ HTTP/1.1\r\nx: ");
    seen.lock().unwrap().clear();
    for path in [odd_path.as_str(), "", "*", "relative", "http://a/b", "/a b"] {
        let mut client = Frames::connect(&play).await;
        let lines = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "example.com")];
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&lines))).await;
        let heard = client.hears().await;
        let refused = matches!(heard, Heard::Reset(_) | Heard::End(Some(_)) | Heard::Status(400 | 410));
        assert!(refused, "{path:?}: {heard:?}");
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn data_that_contradict_their_length_reach_no_backend_as_another_request() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let path = format!("/{token}/");
    let smuggled = b"GET /smuggled HTTP/1.1\r\nhost: example.com\r\n\r\n";
    for (length, data) in [("1", &smuggled[..]), ("0", smuggled), ("1000", smuggled)] {
        seen.lock().unwrap().clear();
        let mut client = Frames::connect(&play).await;
        let lines = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &path),
            (":authority", "example.com"),
            ("content-length", length),
        ];
        client.send(&frame(HEADERS, END_HEADERS, 1, &fields(&lines))).await;
        client.send(&frame(DATA, END_STREAM, 1, data)).await;
        let heard = client.hears().await;
        assert!(matches!(heard, Heard::Reset(_) | Heard::Status(200 | 502)), "{length}: {heard:?}");
        let seen = seen.lock().unwrap();
        assert!(seen.iter().all(|head| !head.starts_with("GET /smuggled")), "{length}: {seen:?}");
        assert!(seen.len() <= 1, "{length}: {seen:?}");
    }
}

#[tokio::test]
async fn heads_that_are_too_large() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let mut client = Http2::connect(play.proxy.address).await;
    let large = |bytes: usize| {
        let mut request = request(Method::GET, &format!("/{token}/"));
        for _ in 0..bytes / 1024 {
            request.headers_mut().append("x-large", "x".repeat(1024).parse().unwrap());
        }
        request
    };
    let (answer, _) = client.start(large(24 * 1024), true).await;
    assert_eq!(whole(answer).await.status, 200);
    let (answer, _) = client.start(large(64 * 1024), true).await;
    match head(answer).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => assert!(error.is_reset() || error.is_go_away(), "{error}"),
    }
}

/// VU#421644: a head that never ends.
#[tokio::test]
async fn a_flood_of_continuations_ends_the_connection() {
    let play = Play::new().await;
    let mut client = Frames::connect(&play).await;
    let lines = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "example.com")];
    client.send(&frame(HEADERS, END_STREAM, 1, &fields(&lines))).await;
    let more = frame(CONTINUATION, 0, 1, &fields(&[("x", &"y".repeat(8 * 1024))]));
    for _ in 0..200 {
        client.send(&more).await;
    }
    let heard = client.hears().await;
    assert!(
        matches!(heard, Heard::End(Some(Reason::ENHANCE_YOUR_CALM | Reason::COMPRESSION_ERROR))),
        "{heard:?}"
    );
}

/// CVE-2023-44487: requests that are taken back as soon as they were made cost the backend, and not
/// the client.
#[tokio::test]
async fn requests_taken_back_at_once_are_bounded() {
    let play = Play::new().await;
    let reached = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = reached.clone();
    let address = raw(&play.lifecycle, move |mut raw| {
        let counted = counted.clone();
        async move {
            while next_head(&mut raw).await.is_some() {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let client = Http2::connect(play.proxy.address).await;
    let (begun, mut made) = (Instant::now(), 0);
    while made < 100_000 {
        let Ok(mut sender) = client.sender.clone().ready().await else { break };
        let asked = Request::get(format!("http://example.com/{token}/")).body(()).unwrap();
        let Ok((_answer, mut up)) = sender.send_request(asked, true) else { break };
        made += 1;
        // In turns with the connection, so that they arrive one after another.
        tokio::task::yield_now().await;
        up.send_reset(Reason::CANCEL);
        tokio::task::yield_now().await;
    }
    assert!(made < 100_000, "the connection is closed");
    timeout(IN_TIME, client.end).await.expect("the connection has ended").unwrap().unwrap_err();
    let reached = reached.load(std::sync::atomic::Ordering::Relaxed);
    // What may be taken back at once, then 32 a second, and those that are open when the connection
    // is cut.
    let most = 256 + 33 * (begun.elapsed().as_secs() as usize + 1) + 128;
    assert!(reached <= most, "{reached} of {made} reached the backend, and not {most}");
    assert_eq!(Http2::connect(play.proxy.address).await.get("/ready").await.status, 200);
}

#[tokio::test]
async fn no_more_streams_than_were_offered_are_open() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        std::future::pending::<()>().await;
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let path = format!("/{token}/");
    let mut client = Frames::connect(&play).await;
    let lines =
        [(":method", "GET"), (":scheme", "http"), (":path", path.as_str()), (":authority", "example.com")];
    for number in 0..300_u32 {
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, number * 2 + 1, &fields(&lines))).await;
    }
    assert_eq!(client.hears().await, Heard::Reset(Reason::REFUSED_STREAM));
}

#[tokio::test]
async fn identity_in_every_spelling_is_removed_from_trailers_and_heads() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let mut client = Http2::connect(play.proxy.address).await;
    let mut asked = request(Method::GET, &format!("/{token}/"));
    for name in
        ["x-verified-username", "x_verified_secret", "x.verified.path", "x-forwarded-for", "forwarded"]
    {
        asked.headers_mut().insert(name, "root".parse().unwrap());
    }
    let (answer, _) = client.start(asked, true).await;
    let told = whole(answer).await.body;
    assert!(!told.contains("root") && told.contains("x-verified-username: zoe\r\n"), "{told}");
}

#[tokio::test]
async fn no_frames_make_it_fall() {
    let panics = crate::raw::panics();
    let play = Play::new().await;
    for seed in 0_u64..200 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut client = Frames::connect(&play).await;
        for _ in 0..20 {
            let payload: Vec<u8> = (0..noise() % 40).map(|_| noise() as u8).collect();
            let bytes = frame((noise() % 11) as u8, noise() as u8, (noise() % 4) as u32, &payload);
            client.send(&bytes).await;
        }
    }
    assert_eq!(Http2::connect(play.proxy.address).await.get("/ready").await.status, 200);
    assert!(play.proxy_lifecycle.stop().await, "each connection has ended");
    assert_eq!(panics.load(std::sync::atomic::Ordering::Relaxed), 0);
}

/// Who begins like HTTP/2 and goes on otherwise, or not at all.
#[tokio::test]
async fn a_preface_that_is_none() {
    let play = Play::new().await;
    for begun in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
        "PRI * HTTP/1.1\r\nhost: example.com\r\n\r\n",
        "PRJ / HTTP/1.1\r\n\r\n",
    ] {
        let mut client = Raw::connect(play.proxy.address).await;
        client.send(begun.as_bytes()).await;
        assert_eq!(client.head().await.status, 400, "{begun:?}");
    }
    let mut stream = TcpStream::connect(play.proxy.address).await.unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = [0; 9];
    timeout(IN_TIME, stream.read_exact(&mut answer)).await.expect("SETTINGS").unwrap();
    assert_eq!(answer[3], SETTINGS);
}
