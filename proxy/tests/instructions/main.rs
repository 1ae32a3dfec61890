//! What a small request costs the proxy's own code, in instructions: a number that a busy machine does not change, so that a
//! regression shows where times show nothing. Counted by callgrind, between the head that has come and the answer that goes;
//! hyper's and the kernel's parts are not in it.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

#[path = "../proxy/backends.rs"]
#[expect(dead_code, reason = "it serves the other tests")]
mod backends;
#[path = "../proxy/controller.rs"]
mod controller;
#[path = "../proxy/play.rs"]
#[expect(dead_code, reason = "it serves the other tests")]
mod play;
#[path = "../proxy/raw.rs"]
#[expect(dead_code, reason = "it serves the other tests")]
mod raw;

use std::process::Command;

use backends::{next_head, raw as backend};
use play::Play;
use raw::Raw;

/// The first opens the token, asks the drone and dials; it is lost among the others.
const REQUESTS: u64 = 2000;
/// Another compiler, another version of a library.
const PERCENT_MORE: u64 = 8;

/// A way that requests take.
struct Way {
    /// The test that is run under callgrind.
    test: &'static str,
    /// The functions whose turns are counted, with all that they call. None calls another.
    counted: &'static [&'static str],
    /// Of one request, as it was when this was written. Lower it with the code; raising it wants a reason in the commit.
    instructions: u64,
}

const PLAIN: Way = Way {
    test: "plain_requests",
    counted: &["jetway_proxy::plain::exchange::*pass_on*", "jetway_proxy::plain::request::read"],
    instructions: 19_500,
};
/// Whatever the rules of `headers` speak of.
const RULED: Way = Way {
    test: "ruled_requests",
    counted: &["*jetway_proxy::serve::Server::respond*"],
    instructions: 39_700,
};

#[test]
fn a_plain_request_costs_no_more_instructions_than_it_did() {
    costs(&PLAIN);
}

#[test]
fn a_ruled_request_costs_no_more_instructions_than_it_did() {
    costs(&RULED);
}

fn costs(way: &Way) {
    let itself = std::env::current_exe().unwrap();
    let report = std::env::temp_dir().join(format!("jetway-callgrind-{}-{}", way.test, std::process::id()));
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .args(way.counted.iter().map(|counted| format!("--toggle-collect={counted}")))
        .arg(format!("--callgrind-out-file={}", report.display()))
        .arg(itself)
        .args(["--exact", way.test])
        .output()
        .expect("valgrind is installed (scripts/setup --test)");
    let _it_may_not_be_there = std::fs::remove_file(&report);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let total: u64 = collected.and_then(|(_, count)| count.trim().parse().ok()).expect("a count");
    let (each, before) = (total / REQUESTS, way.instructions);
    println!("figure: instructions of one of the {}: {each} ({before} before)", way.test);
    assert!(each > 1000, "{:?} were not found: {said}", way.counted);
    assert!(each <= before * (100 + PERCENT_MORE) / 100, "{each} instructions, {before} before");
}

/// What is counted.
#[tokio::test]
async fn plain_requests() {
    requests(&["user-agent: test", "accept: */*", "accept-encoding: gzip"]).await;
}

/// The same with a line that is not passed on.
#[tokio::test]
async fn ruled_requests() {
    requests(&["te: trailers", "accept: */*", "accept-encoding: gzip"]).await;
}

async fn requests(lines: &[&str]) {
    let play = Play::new().await;
    let address = backend(&play.lifecycle, |mut raw: Raw| async move {
        while next_head(&mut raw).await.is_some() {
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nsmall").await;
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    let path = format!("/{token}/");
    for _ in 0..REQUESTS {
        assert_eq!(client.get(&path, lines).await.status, 200);
    }
}
