//! The line against connections of every kind. Not its business: a real init (`tests/runtime_docker.rs`).

use std::path::PathBuf;

use tokio::io::{AsyncBufReadExt, BufReader};

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

struct Slot {
    directory: PathBuf,
    lifecycle: Lifecycle,
}

impl Slot {
    fn new() -> Self {
        let name = format!("jw-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        Self { directory: std::env::temp_dir().join(name), lifecycle: Lifecycle::new() }
    }

    fn open(&self, nonce: Option<&str>) -> InitLine {
        open(&self.lifecycle, &self.directory, nonce.map(str::to_owned)).unwrap()
    }

    async fn dial(&self, first: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.directory.join(SOCKET)).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        stream
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn hello(nonce: &str) -> String {
    format!("{{\"type\":\"hello\",\"version\":1,\"nonce\":\"{nonce}\",\"boot_id\":null,\"session\":null}}\n")
}

async fn event(line: &mut InitLine) -> LineEvent {
    tokio::time::timeout(DEADLINE, line.events.recv()).await.expect("an event in time").expect("an open line")
}

async fn connected(line: &mut InitLine, nonce: &str) {
    match event(line).await {
        LineEvent::Connected(hello) => assert_eq!(hello.nonce, nonce),
        other => panic!("{other:?}"),
    }
}

async fn closed(stream: UnixStream) {
    let mut rest = String::new();
    let mut reader = BufReader::new(stream);
    let read = tokio::time::timeout(DEADLINE, reader.read_line(&mut rest)).await.expect("closed in time");
    assert!(matches!(read, Ok(0) | Err(_)), "{rest:?}");
}

async fn received(stream: &mut BufReader<UnixStream>) -> ToInit {
    let mut line = String::new();
    tokio::time::timeout(DEADLINE, stream.read_line(&mut line)).await.expect("a message in time").unwrap();
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn messages_go_both_ways_and_wait_while_init_is_away() {
    let slot = Slot::new();
    let mut line = slot.open(None);
    for grace_ms in 0..COMMANDS_MAX as u64 {
        line.commands.try_send(ToInit::Stop { signal: 15, grace_ms }).unwrap();
    }
    assert!(line.commands.try_send(ToInit::Ping).is_err(), "the queue is bounded");
    let mut init = BufReader::new(slot.dial(&hello("n")).await);
    connected(&mut line, "n").await;
    for expect in 0..COMMANDS_MAX as u64 {
        assert_eq!(received(&mut init).await, ToInit::Stop { signal: 15, grace_ms: expect });
    }
    init.get_mut()
        .write_all(b"{\"type\":\"pong\"}\n{\"type\":\"of_tomorrow\",\"x\":1}\n{\"type\":\"pong\"}\n")
        .await
        .unwrap();
    assert_eq!(event(&mut line).await, LineEvent::Message(FromInit::Pong));
    assert_eq!(event(&mut line).await, LineEvent::Message(FromInit::Pong));
    drop(init);
    assert_eq!(event(&mut line).await, LineEvent::Disconnected);
}

#[tokio::test]
async fn only_the_first_nonce_is_this_slots_init() {
    let slot = Slot::new();
    let mut line = slot.open(None);
    closed(slot.dial("garbage\n").await).await;
    closed(slot.dial("{\"type\":\"pong\"}\n").await).await;
    closed(slot.dial(&hello("")).await).await;
    let first = slot.dial(&hello("mine")).await;
    connected(&mut line, "mine").await;
    closed(slot.dial(&hello("other")).await).await;
    let _second = slot.dial(&hello("mine")).await;
    assert_eq!(event(&mut line).await, LineEvent::Disconnected);
    connected(&mut line, "mine").await;
    closed(first).await;
}

#[tokio::test]
async fn a_journalled_nonce_is_pinned_from_the_start() {
    let slot = Slot::new();
    let mut line = slot.open(Some("mine"));
    closed(slot.dial(&hello("other")).await).await;
    let _init = slot.dial(&hello("mine")).await;
    connected(&mut line, "mine").await;
}

#[tokio::test]
async fn garbage_on_the_line_ends_it_and_init_may_come_back() {
    let slot = Slot::new();
    let mut line = slot.open(None);
    for _ in 0..3 {
        let init = slot.dial(&format!("{}not json\n", hello("n"))).await;
        connected(&mut line, "n").await;
        assert_eq!(event(&mut line).await, LineEvent::Disconnected);
        closed(init).await;
    }
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_init_out() {
    let slot = Slot::new();
    let mut line = slot.open(None);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(slot.dial("").await);
    }
    let _init = slot.dial(&hello("n")).await;
    connected(&mut line, "n").await;
    for stream in silent {
        closed(stream).await;
    }
}

#[tokio::test]
async fn a_line_that_is_too_long_is_dropped() {
    let slot = Slot::new();
    let mut line = slot.open(None);
    let long = format!("{{\"type\":\"hello\",\"nonce\":\"{}\"", "x".repeat(HELLO_BYTES_MAX));
    let mut stream = UnixStream::connect(slot.directory.join(SOCKET)).await.unwrap();
    let _closed_meanwhile = stream.write_all(long.as_bytes()).await;
    closed(stream).await;
    let _init = slot.dial(&hello("n")).await;
    connected(&mut line, "n").await;
}

#[tokio::test]
async fn a_slow_receiver_loses_nothing() {
    let slot = Slot::new();
    let mut line = slot.open(None);
    let mut init = slot.dial(&hello("n")).await;
    let count = EVENTS_MAX * 10;
    init.write_all("{\"type\":\"pong\"}\n".repeat(count).as_bytes()).await.unwrap();
    line.commands.send(ToInit::Ping).await.unwrap();
    let mut reader = BufReader::new(init);
    assert_eq!(received(&mut reader).await, ToInit::Ping);
    connected(&mut line, "n").await;
    for _ in 0..count {
        assert_eq!(event(&mut line).await, LineEvent::Message(FromInit::Pong));
    }
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_dropped_line_is_closed() {
    let slot = Slot::new();
    let old = slot.open(None);
    let mut line = slot.open(None);
    drop(old);
    let init = slot.dial(&hello("n")).await;
    connected(&mut line, "n").await;
    drop(line);
    closed(init).await;
    let refused = async {
        while UnixStream::connect(slot.directory.join(SOCKET)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.expect("the socket closes");
    // As after kill -9: the file is there, nobody listens.
    assert!(slot.directory.join(SOCKET).exists());
    let mut line = slot.open(None);
    let _init = slot.dial(&hello("n")).await;
    connected(&mut line, "n").await;
}

#[tokio::test]
async fn a_path_that_is_too_long_is_a_clear_error() {
    let directory = std::env::temp_dir().join("x".repeat(100));
    let error = open(&Lifecycle::new(), &directory, None).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("107"), "{error}");
    std::fs::remove_dir_all(directory).unwrap();
}
