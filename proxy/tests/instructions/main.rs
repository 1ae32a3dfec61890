//! What a small request costs the proxy's own code, in instructions: a number that a busy machine
//! does not change, so that a regression shows where times show nothing. Counted by callgrind,
//! between the head that has come and the answer that goes; hyper's and the kernel's parts are not
//! in it.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

#[path = "../proxy/backends.rs"]
#[expect(dead_code, reason = "it serves the other tests")]
mod backends;
#[path = "../proxy/controller.rs"]
mod controller;
#[path = "../proxy/play.rs"]
#[expect(unused_imports, reason = "it serves the other tests")]
mod play;
#[path = "../proxy/raw.rs"]
#[expect(dead_code, reason = "it serves the other tests")]
mod raw;

use std::net::SocketAddr;
use std::process::Command;

use backends::{next_head, raw as backend};
use jetway_protocol::token::HostUse;
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
    /// What is counted, with all that it calls. Where the compiler has put one function into
    /// another, that one stands for it: of each group, the largest counts.
    counted: &'static [&'static [&'static str]],
    /// Of one request, as it was when this was written. Lower it with the code; raising it wants a
    /// reason in the commit.
    instructions: u64,
}

const PLAIN: Way = Way {
    test: "plain_requests",
    counted: &[&["plain::Lane>::serve::", "plain::Lane>::pass_on::"], &["plain::request::read"]],
    instructions: 21_400,
};
/// The same in the host form: the cookie opens, is taken off, and the page behind it is judged.
const ON_HOST: Way = Way { test: "host_requests", instructions: 22_400, ..PLAIN };
/// Whatever the rules of `headers` speak of.
const RULED: Way = Way {
    test: "ruled_requests",
    counted: &[&["server::Server::respond::", "server::Server::by_path::"]],
    instructions: 42_200,
};

#[test]
fn a_plain_request_costs_no_more_instructions_than_it_did() {
    costs(&PLAIN);
}

#[test]
fn a_request_of_the_host_form_costs_no_more_than_it_did() {
    costs(&ON_HOST);
}

#[test]
fn a_ruled_request_costs_no_more_instructions_than_it_did() {
    costs(&RULED);
}

fn costs(way: &Way) {
    let itself = std::env::current_exe().unwrap();
    let report = std::env::temp_dir().join(format!("jetway-callgrind-{}-{}", way.test, std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", report.display())])
        .arg(itself)
        .args(["--exact", way.test])
        .output()
        .expect("valgrind is installed (scripts/setup --test)");
    assert!(output.status.success(), "{output:?}");
    let table = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--threshold=100"])
        .arg(&report)
        .output()
        .expect("valgrind brings it");
    let _it_may_not_be_there = std::fs::remove_file(&report);
    let table = String::from_utf8_lossy(&table.stdout);
    let total: u64 = way.counted.iter().map(|group| largest(&table, group)).sum();
    let (each, before) = (total / REQUESTS, way.instructions);
    println!("figure: instructions of one of the {}: {each} ({before} before)", way.test);
    assert!(each <= before * (100 + PERCENT_MORE) / 100, "{each} instructions, {before} before");
}

/// The most that a function of one of these names has taken, as a line like `1,234 (5.6%)
/// file:name [object]` says.
fn largest(table: &str, names: &[&str]) -> u64 {
    let of = |line: &str| {
        let (count, _) = line.trim_start().split_once(' ')?;
        names.iter().any(|name| line.contains(name)).then(|| count.replace(',', "").parse().ok()).flatten()
    };
    table.lines().filter_map(of).max().unwrap_or_else(|| panic!("none of {names:?} was found: {table}"))
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

/// Until the proxy has heard of its installation: a host that may be a session's is no plain one.
async fn known(play: &Play) {
    while raw::get(play.proxy.address, "/ready", &[]).await.status != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// A page's part, as a browser asks for it at its session's host.
#[tokio::test]
async fn host_requests() {
    let play = Play::new().await;
    let address = small(&play).await;
    let (backend, _) = play.ready_backend(address);
    let content = play.content(&backend);
    let host = "k-abcdefghijklmnopqrstuvwxyz.example.com";
    let cookie = play.seal_on(HostUse::Cookie, host, &content, "zoe");
    let head = format!(
        "GET / HTTP/1.1\r\nhost: {host}\r\nuser-agent: test\r\naccept: */*\r\naccept-encoding: gzip\r\n\
         sec-fetch-site: same-origin\r\ncookie: __Host-jetway={cookie}\r\n\r\n"
    );
    known(&play).await;
    let mut client = Raw::connect(play.proxy.address).await;
    for _ in 0..REQUESTS {
        client.send(head.as_bytes()).await;
        assert_eq!(client.answer().await.status, 200);
    }
}

async fn requests(lines: &[&str]) {
    let play = Play::new().await;
    let address = small(&play).await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    let path = format!("/{token}/");
    for _ in 0..REQUESTS {
        assert_eq!(client.get(&path, lines).await.status, 200);
    }
}

async fn small(play: &Play) -> SocketAddr {
    backend(&play.lifecycle, |mut raw: Raw| async move {
        while next_head(&mut raw).await.is_some() {
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nsmall").await;
        }
    })
    .await
}
