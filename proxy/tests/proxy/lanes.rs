//! One verdict for one message: the same bytes through hyper's lane and through the plain one, from
//! clients and from applications, good and bad (RFC 9112 §2.2, §6.1 to §6.3, §7.1).

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::backends::{mirror, next_head, raw};
use crate::play::Play;
use crate::raw::Raw;

/// A line that no rule speaks of, and one that a rule takes off: with it, a request is not plain.
const LANES: [&str; 2] = ["x-way: 1", "te: deflate"];

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// A whole answer with this body.
    Whole(u16, String),
    /// An answer that is broken off.
    Broken(u16),
    /// The proxy's own, with what it says in `Proxy-Status`.
    Own(u16, String),
}

fn whole(status: u16, body: &str) -> Verdict {
    Verdict::Whole(status, body.to_owned())
}

/// The application's fault.
fn refused(error: &str) -> Verdict {
    Verdict::Own(502, format!("jetway; error={error}"))
}

fn malformed() -> Verdict {
    refused("http_protocol_error")
}

async fn verdict(client: &mut Raw, has_body: bool) -> Verdict {
    let head = client.head().await;
    let status = head.status;
    if let Some(mark) = head.header("proxy-status") {
        return Verdict::Own(status, mark.to_owned());
    }
    let lengths: Vec<&str> =
        head.headers.iter().filter(|(name, _)| name == "content-length").map(|(_, value)| &**value).collect();
    let chunked = head.header("transfer-encoding");
    assert!(lengths.len() <= 1 && (lengths.is_empty() || chunked.is_none()), "{head:?}");
    assert!(chunked.is_none_or(|encoding| encoding == "chunked"), "{head:?}");
    let mut body = Vec::new();
    if !has_body || matches!(status, 204 | 304) {
        return whole(status, "");
    }
    if let Some(length) = lengths.first() {
        let length: usize = length.parse().unwrap();
        while client.buffer.len() < length {
            if !client.more().await {
                return Verdict::Broken(status);
            }
        }
        body = client.take(length).await;
    } else if chunked.is_some() {
        loop {
            let Some(size) = line(client).await else { return Verdict::Broken(status) };
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            if size == 0 {
                break;
            }
            while client.buffer.len() < size + 2 {
                if !client.more().await {
                    return Verdict::Broken(status);
                }
            }
            body.extend_from_slice(&client.take(size + 2).await[..size]);
        }
        assert_eq!(line(client).await.as_deref(), Some("\r\n"), "no trailers were asked for");
    }
    whole(status, &String::from_utf8(body).unwrap())
}

async fn line(client: &mut Raw) -> Option<String> {
    while !client.buffer.contains(&b'\n') {
        if !client.more().await {
            return None;
        }
    }
    Some(client.take_until("\n").await)
}

/// Each answer of a table, asked for in each lane.
async fn answers(method: &str, table: Vec<(String, Verdict)>) {
    let play = Play::new().await;
    let (sent, expected): (Vec<String>, Vec<Verdict>) = table.into_iter().unzip();
    let all = Arc::new(sent);
    let of_the_backend = all.clone();
    let address = raw(&play.lifecycle, move |mut raw: Raw| {
        let all = of_the_backend.clone();
        async move {
            let Some(head) = next_head(&mut raw).await else { return };
            let row: usize = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
            let _it_may_be_refused_earlier = raw.stream.write_all(all[row].as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut wrong = Vec::new();
    for (row, expected) in expected.iter().enumerate() {
        for lane in LANES {
            let mut client = Raw::connect(play.proxy.address).await;
            let request = format!("{method} /{token}/{row} HTTP/1.1\r\nhost: example.com\r\n{lane}\r\n\r\n");
            client.send(request.as_bytes()).await;
            let found = verdict(&mut client, method != "HEAD").await;
            if found != *expected {
                let start: String = all[row].chars().take(200).collect();
                wrong.push(format!("{lane}: {found:?} instead of {expected:?} for {start:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn answer(lines: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}")
}

fn chunked(body: &str) -> String {
    answer("Transfer-Encoding: chunked\r\n", body)
}

/// A head of so many bytes.
fn head_of(bytes: usize) -> String {
    let without = answer("content-length: 0\r\nx: \r\n", "").len();
    answer(&format!("content-length: 0\r\nx: {}\r\n", "x".repeat(bytes - without)), "")
}

#[tokio::test]
async fn good_answers_pass_alike() {
    let ok = || whole(200, "ok");
    answers(
        "GET",
        vec![
            (answer("content-length: 2\r\n", "ok"), ok()),
            (answer("content-length: 2\r\nContent-Length: 2\r\n", "ok"), ok()),
            (answer("content-length: 2, 2\r\n", "ok"), ok()),
            (answer("content-length: 2 , 02\r\ncontent-length: 2\r\n", "ok"), ok()),
            (answer("content-length:2\r\n", "ok"), ok()),
            (answer("content-length: \t2 \r\n", "ok"), ok()),
            (answer("", "ok"), ok()),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok".into(), ok()),
            ("HTTP/1.0 200 OK\r\n\r\nok".into(), ok()),
            ("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok".into(), ok()),
            ("HTTP/1.1 200 OK\ncontent-length: 2\n\nok".into(), ok()),
            ("\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".into(), ok()),
            (format!("HTTP/1.1 100 Continue\r\n\r\n{}", answer("content-length: 2\r\n", "ok")), ok()),
            (chunked("2\r\nok\r\n0\r\n\r\n"), ok()),
            (chunked("1\r\no\r\n0001\r\nk\r\n000\r\n\r\n"), ok()),
            (chunked("2;a=\"b c\"\r\nok\r\n0;c\r\n\r\n"), ok()),
            (chunked("2 \t\r\nok\r\n0\r\n\r\n"), ok()),
            (chunked("00000000000000000002\r\nok\r\n0\r\n\r\n"), ok()),
            (chunked("2\r\nok\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\n"), ok()),
            // Trailers end at the first empty line that is ended by both signs.
            (chunked("2\r\nok\r\n0\r\n\nx\r\n\r\n"), ok()),
            (answer("TRANSFER-ENCODING: CHUNKED\r\n", "2\r\nok\r\n0\r\n\r\n"), ok()),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n".into(), whole(204, "")),
            ("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n".into(), whole(204, "")),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n".into(), whole(304, "")),
            ("HTTP/1.1 999 Odd\r\ncontent-length: 2\r\n\r\nok".into(), whole(999, "ok")),
            (answer(&("a: b\r\n".repeat(99) + "content-length: 2\r\n"), "ok"), ok()),
            (head_of(60 * 1024), whole(200, "")),
            (head_of(64 * 1024), whole(200, "")),
            (answer("content-length: 3\r\n", "ok"), Verdict::Broken(200)),
            (chunked("3\r\nok"), Verdict::Broken(200)),
        ],
    )
    .await;
}

#[tokio::test]
async fn badly_framed_answers_are_refused_alike() {
    let lengths = [
        "+2",
        "-2",
        "0x2",
        "2.0",
        "2 2",
        "",
        "2,",
        ",2",
        "2, 3",
        "2;2",
        "two",
        "99999999999999999999",
        "18446744073709551614",
    ];
    let encodings = [
        "gzip, chunked",
        "gzip",
        "identity",
        "chunked, identity",
        "chunked, chunked",
        "xchunked",
        "chunkedx",
        "\x0bchunked",
        "\"chunked\"",
        "chunked;q=1",
        "chunked,",
        "",
    ];
    let chunk = "2\r\nok\r\n0\r\n\r\n";
    let mut table: Vec<String> = Vec::new();
    table.extend(lengths.map(|length| answer(&format!("content-length: {length}\r\n"), "ok")));
    table.extend(encodings.map(|encoding| answer(&format!("transfer-encoding: {encoding}\r\n"), chunk)));
    table.extend([
        answer("content-length: 2\r\ncontent-length: 3\r\n", "ok"),
        answer("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", chunk),
        answer("transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", chunk),
        answer("transfer-encoding: chunked\r\ncontent-length: 12\r\n", chunk),
        answer("content-length: 2\r\ntransfer-encoding: chunked\r\n", chunk),
        format!("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"),
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: gzip, chunked\r\n\r\n".into(),
    ]);
    answers("GET", table.into_iter().map(|sent| (sent, malformed())).collect()).await;
    let head = |lines: &str| (answer(lines, ""), malformed());
    answers(
        "HEAD",
        vec![
            (answer("content-length: 2\r\n", ""), whole(200, "")),
            (answer("content-length: 2, 2\r\n", ""), whole(200, "")),
            (answer("transfer-encoding: chunked\r\n", ""), whole(200, "")),
            head("content-length: 2, 3\r\n"),
            head("transfer-encoding: gzip, chunked\r\n"),
            head("transfer-encoding: chunked\r\ncontent-length: 2\r\n"),
        ],
    )
    .await;
}

#[tokio::test]
async fn malformed_heads_are_refused_alike() {
    let heads = [
        "nonsense\r\n\r\n".into(),
        "HTTP/2 200 OK\r\n\r\n".into(),
        "HTTP/1.2 200 OK\r\n\r\n".into(),
        "HTTP/0.9 200 OK\r\n\r\n".into(),
        "http/1.1 200 OK\r\n\r\n".into(),
        "HTTP/1.1 20 OK\r\n\r\n".into(),
        "HTTP/1.1 2000 OK\r\n\r\n".into(),
        "HTTP/1.1 099 OK\r\n\r\n".into(),
        "HTTP/1.1  200 OK\r\n\r\n".into(),
        "HTTP/1.1\t200 OK\r\n\r\n".into(),
        " HTTP/1.1 200 OK\r\n\r\n".into(),
        answer("content-length : 2\r\n", "ok"),
        answer("content-length\r\n", "ok"),
        answer(" content-length: 2\r\n", "ok"),
        answer("x: y\r\n folded: z\r\ncontent-length: 2\r\n", "ok"),
        answer("x: a\rcontent-length: 2\r\n", "ok"),
        answer("x: a\0b\r\n", "ok"),
        answer("x y: a\r\n", "ok"),
        answer(": a\r\n", "ok"),
        answer(&"a: b\r\n".repeat(101), ""),
        head_of(64 * 1024 + 1),
        head_of(100 * 1024),
        head_of(300 * 1024),
        "x".repeat(100 * 1024),
    ];
    answers("GET", heads.map(|head| (head, malformed())).into()).await;
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    answers(
        "GET",
        vec![
            (interim.repeat(17) + &answer("content-length: 0\r\n", ""), malformed()),
            (
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: a\r\nconnection: upgrade\r\n\r\n".into(),
                malformed(),
            ),
            (String::new(), refused("connection_terminated")),
            ("HTTP/1.1 200 OK\r\ncontent-le".into(), refused("connection_terminated")),
        ],
    )
    .await;
}

#[tokio::test]
async fn malformed_chunks_are_refused_alike() {
    let chunks = [
        "\r\n",
        "x\r\n",
        ";a\r\n",
        "-2\r\nok\r\n0\r\n\r\n",
        "+2\r\nok\r\n0\r\n\r\n",
        "0x2\r\nok\r\n0\r\n\r\n",
        " 2\r\nok\r\n0\r\n\r\n",
        "2\nok\r\n0\r\n\r\n",
        "2\r\r\nok\r\n0\r\n\r\n",
        "2 2\r\nok\r\n0\r\n\r\n",
        "2 x\r\nok\r\n0\r\n\r\n",
        "2;a\nb\r\nok\r\n0\r\n\r\n",
        "10000000000000000\r\nok\r\n",
        "ffffffffffffffff0\r\nok\r\n",
        "0\r\n\rx\r\n\r\n",
        "0\r\nx: a\rb\r\n\r\n",
        "0\r\nbad name: x\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
    ];
    let mut table: Vec<(String, Verdict)> = chunks.map(|chunk| (chunked(chunk), malformed())).into();
    table.push((chunked(&format!("0\r\n{}\r\n", "a: b\r\n".repeat(101))), malformed()));
    answers("GET", table).await;
}

/// Lines and a body, and what a client gets for them in either lane.
#[tokio::test]
async fn requests_are_judged_alike() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let table = [
        ("", "", 200),
        ("content-length: 0\r\n", "", 200),
        ("content-length: 3\r\n", "abc", 200),
        ("content-length: 3\r\ncontent-length: 3\r\n", "abc", 200),
        ("transfer-encoding: chunked\r\n", "0\r\n\r\n", 200),
        ("transfer-encoding: chunked\r\ncontent-length: 3\r\n", "0\r\n\r\n", 200),
        ("content-length: 3, 3\r\n", "abc", 400),
        ("content-length: 3\r\ncontent-length: 4\r\n", "abc", 400),
        ("content-length: +3\r\n", "abc", 400),
        ("content-length: 3 3\r\n", "abc", 400),
        ("content-length:\r\n", "", 400),
        ("content-length: 18446744073709551616\r\n", "", 400),
        ("content-length : 3\r\n", "abc", 400),
        ("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n", 400),
        ("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n", 400),
        ("transfer-encoding: \x0bchunked\r\n", "0\r\n\r\n", 400),
        ("host: example.com\r\n", "", 400),
        ("x: y\r\n folded: z\r\n", "", 400),
        ("x: a\0b\r\n", "", 400),
        ("x y: a\r\n", "", 400),
    ];
    for (lines, body, status) in table {
        for lane in LANES {
            let mut client = Raw::connect(play.proxy.address).await;
            let request =
                format!("POST /{token}/ HTTP/1.1\r\nhost: example.com\r\n{lane}\r\n{lines}\r\n{body}");
            client.send(request.as_bytes()).await;
            assert_eq!(client.head().await.status, status, "{lane} {lines:?}");
        }
    }
    let seen = seen.lock().unwrap();
    assert!(
        seen.iter().all(|head| head.to_ascii_lowercase().matches("content-length").count() <= 1),
        "{seen:?}"
    );
}

#[tokio::test]
async fn what_forges_the_proxys_word_reaches_no_backend() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    for name in [
        "X-Real-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Client-IP",
        "Remote-User",
        "remote_user",
        "X_Real_IP",
        "Proxy",
        "PROXY",
        "Content_Length",
        "Transfer_Encoding",
        "X_Forwarded_For",
        "x_verified_secret",
        "proxy_connection",
    ] {
        for lane in LANES {
            seen.lock().unwrap().clear();
            let mut client = Raw::connect(play.proxy.address).await;
            let line = format!("{name}: forged");
            assert_eq!(client.get(&format!("/{token}/"), &[lane, &line]).await.status, 200, "{name}");
            let heads = seen.lock().unwrap().clone();
            assert!(heads.len() == 1 && !heads[0].contains("forged"), "{lane} {name}: {heads:?}");
        }
    }
    for name in ["User_Agent", "X_Requested_With", "Content_Type", "Proxies"] {
        for lane in LANES {
            let mut client = Raw::connect(play.proxy.address).await;
            let told = client.get(&format!("/{token}/"), &[lane, &format!("{name}: own")]).await.body;
            assert!(told.contains(": own\r\n"), "{lane} {name}: {told}");
        }
    }
}
