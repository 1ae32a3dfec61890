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
/// Of one request, as it was when this was written. Lower it with the code; raising it wants a reason in the commit.
const INSTRUCTIONS: u64 = 39_700;
/// Another compiler, another version of a library.
const PERCENT_MORE: u64 = 8;
/// The function whose turns are counted, with all that it calls.
const COUNTED: &str = "*jetway_proxy::serve::Server::respond*";

#[test]
fn a_small_request_costs_no_more_instructions_than_it_did() {
    let itself = std::env::current_exe().unwrap();
    let report = std::env::temp_dir().join(format!("jetway-callgrind-{}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--toggle-collect={COUNTED}")])
        .arg(format!("--callgrind-out-file={}", report.display()))
        .arg(itself)
        .args(["--exact", "small_requests"])
        .output()
        .expect("valgrind is installed (scripts/setup --test)");
    let _it_may_not_be_there = std::fs::remove_file(&report);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let total: u64 = collected.and_then(|(_, count)| count.trim().parse().ok()).expect("a count");
    let each = total / REQUESTS;
    println!(
        "figure: instructions of a small request in the proxy's own code: {each} ({INSTRUCTIONS} before)"
    );
    assert!(each > 1000, "{COUNTED} was not found: {said}");
    assert!(each <= INSTRUCTIONS * (100 + PERCENT_MORE) / 100, "{each} instructions, {INSTRUCTIONS} before");
}

/// What is counted.
#[tokio::test]
async fn small_requests() {
    let play = Play::new().await;
    let address = backend(&play.lifecycle, |mut raw: Raw| async move {
        while next_head(&mut raw).await.is_some() {
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nsmall").await;
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    let (path, lines) = (format!("/{token}/"), ["user-agent: test", "accept: */*", "accept-encoding: gzip"]);
    for _ in 0..REQUESTS {
        assert_eq!(client.get(&path, &lines).await.status, 200);
    }
}
