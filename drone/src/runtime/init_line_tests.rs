//! The line against connections of every kind. Not its business: a real init (`tests/runtime_docker.rs`).

use std::path::PathBuf;

use jetway_protocol::init::LINE_BYTES_MAX;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;

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
    assert_eq!(event(&mut line).await, LineEvent::Disconnected { heard_all: true });
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
    // Init would have closed the first one. As it is, what more may come on it is not waited for.
    assert_eq!(event(&mut line).await, LineEvent::Disconnected { heard_all: false });
    connected(&mut line, "mine").await;
    closed(first).await;
}

#[tokio::test]
async fn what_init_said_before_a_new_connection_comes_first() {
    let slot = Slot::new();
    let mut line = slot.open(None);
    let mut first = slot.dial(&hello("n")).await;
    connected(&mut line, "n").await;
    let mut second = slot.dial("").await;
    first.write_all("{\"type\":\"pong\"}\n".repeat(100).as_bytes()).await.unwrap();
    drop(first);
    second.write_all(hello("n").as_bytes()).await.unwrap();
    for _ in 0..100 {
        assert_eq!(event(&mut line).await, LineEvent::Message(FromInit::Pong));
    }
    assert_eq!(event(&mut line).await, LineEvent::Disconnected { heard_all: true });
    connected(&mut line, "n").await;
}

/// An init that dies has often said something that the drone has not read yet, while the drone
/// writes to it.
#[tokio::test]
async fn after_a_failed_write_the_line_is_read_to_its_end() {
    let slot = Slot::new();
    let mut line = slot.open(None);
    // The events that fill the queue keep the rest of what init says unread.
    let said = EVENTS_MAX + 10;
    for ends_with_something_unread in [false, true] {
        let mut init = slot.dial(&hello("n")).await;
        init.write_all("{\"type\":\"pong\"}\n".repeat(said).as_bytes()).await.unwrap();
        if ends_with_something_unread {
            line.commands.send(ToInit::Ping).await.unwrap();
            init.readable().await.unwrap();
        }
        drop(init);
        line.commands.send(ToInit::Ping).await.unwrap();
        connected(&mut line, "n").await;
        let (mut heard, mut ends) = (0, Vec::new());
        while ends.last() != Some(&true) {
            match event(&mut line).await {
                LineEvent::Message(FromInit::Pong) => heard += 1,
                LineEvent::Disconnected { heard_all } => ends.push(heard_all),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(heard, said, "{ends:?}");
        // The ping that could not be written is for the next connection.
        let mut next = BufReader::new(slot.dial(&hello("n")).await);
        connected(&mut line, "n").await;
        assert_eq!(received(&mut next).await, ToInit::Ping);
        drop(next);
        assert_eq!(event(&mut line).await, LineEvent::Disconnected { heard_all: true });
    }
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
        assert_eq!(event(&mut line).await, LineEvent::Disconnected { heard_all: false });
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

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Of this whole process, in clock ticks.
fn processor_time() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).try_into().unwrap()
}

/// The application may connect as often as it likes: its own line, the descriptors and the other
/// slots do not notice.
#[tokio::test]
async fn a_flood_of_connections_costs_neither_descriptors_nor_time() {
    const FLOOD: Duration = Duration::from_secs(2);
    let (flooded, neighbour) = (Slot::new(), Slot::new());
    let [mut line, mut other] = [flooded.open(None), neighbour.open(None)];
    let mut init = BufReader::new(flooded.dial(&hello("n")).await);
    let mut far = BufReader::new(neighbour.dial(&hello("m")).await);
    connected(&mut line, "n").await;
    connected(&mut other, "m").await;
    let before = descriptors();
    let path = flooded.directory.join(SOCKET);
    let mut flood = std::process::Command::new("python3")
        .args(["-c", FLOODING, path.to_str().unwrap(), &FLOOD.as_secs().to_string()])
        .spawn()
        .unwrap();
    let (began, spent) = (std::time::Instant::now(), processor_time());
    let (mut most, mut slowest) = (0, Duration::ZERO);
    while began.elapsed() < FLOOD {
        most = most.max(descriptors());
        let asked = std::time::Instant::now();
        for (line, far) in [(&mut line, &mut init), (&mut other, &mut far)] {
            line.commands.send(ToInit::Ping).await.unwrap();
            assert_eq!(received(far).await, ToInit::Ping);
            far.get_mut().write_all(b"{\"type\":\"pong\"}\n").await.unwrap();
            assert_eq!(event(line).await, LineEvent::Message(FromInit::Pong));
        }
        slowest = slowest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let spent = processor_time() - spent;
    flood.kill().unwrap();
    flood.wait().unwrap();
    println!(
        "{most} descriptors, {before} before; the slowest exchange {slowest:?}; {spent:?} of processor in {FLOOD:?}"
    );
    assert!(most <= before + 16, "{most} descriptors, {before} before");
    assert!(spent < FLOOD / 4, "{spent:?} of processor in {FLOOD:?}");
    // Init itself gets in, once the flood is over, and the one before makes room.
    drop(init);
    assert_eq!(event(&mut line).await, LineEvent::Disconnected { heard_all: true });
}

/// Connects to the socket and keeps what it has, up to what a process may have, for so many
/// seconds.
const FLOODING: &str = "
import socket, sys, time
path, until, kept = sys.argv[1], time.monotonic() + float(sys.argv[2]), []
while time.monotonic() < until:
    one = socket.socket(socket.AF_UNIX)
    one.setblocking(False)
    try:
        one.connect(path)
    except OSError:
        pass
    kept.append(one)
    if len(kept) > 500:
        for one in kept[:250]:
            one.close()
        del kept[:250]
";

#[tokio::test]
async fn a_line_that_is_too_long_is_dropped() {
    let slot = Slot::new();
    let mut line = slot.open(None);
    let long = format!("{{\"type\":\"hello\",\"nonce\":\"{}\"", "x".repeat(door::HELLO_BYTES_MAX));
    let mut stream = UnixStream::connect(slot.directory.join(SOCKET)).await.unwrap();
    let _closed_meanwhile = stream.write_all(long.as_bytes()).await;
    closed(stream).await;
    let mut init = slot.dial(&hello("n")).await;
    connected(&mut line, "n").await;
    let _closed_meanwhile = init.write_all(&vec![b'x'; LINE_BYTES_MAX + 1]).await;
    // What init has said behind it is not heard.
    assert_eq!(event(&mut line).await, LineEvent::Disconnected { heard_all: false });
}

/// A session that is written on a connection must find its backend listening to that connection.
#[tokio::test]
async fn nothing_is_written_before_the_connection_was_announced() {
    let slot = Slot::new();
    let mut line = slot.open(None);
    let mut first = slot.dial(&hello("n")).await;
    // With the hello, as many events as wait for the receiver.
    first.write_all("{\"type\":\"pong\"}\n".repeat(EVENTS_MAX - 1).as_bytes()).await.unwrap();
    drop(first);
    let mut second = BufReader::new(slot.dial(&hello("n")).await);
    // By then all of the first one is read: nothing more is written to it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    line.commands.try_send(ToInit::Ping).unwrap();
    connected(&mut line, "n").await;
    // There is room for the end of the first connection, and none for the second one.
    let early = tokio::time::timeout(Duration::from_millis(300), second.fill_buf()).await;
    assert!(early.is_err(), "{early:?}");
    for _ in 1..EVENTS_MAX {
        assert_eq!(event(&mut line).await, LineEvent::Message(FromInit::Pong));
    }
    assert_eq!(event(&mut line).await, LineEvent::Disconnected { heard_all: true });
    connected(&mut line, "n").await;
    assert_eq!(received(&mut second).await, ToInit::Ping);
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
