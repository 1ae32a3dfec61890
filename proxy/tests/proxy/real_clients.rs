//! Clients that others wrote: curl, and nghttp2's.

use std::process::Output;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use tokio::process::Command;
use tokio::time::timeout;

use crate::backends::app;
use crate::http2_client::IN_TIME;
use crate::play::Play;

async fn run(program: &str, arguments: &[&str]) -> Output {
    let running = Command::new(program).args(arguments).env("no_proxy", "*").kill_on_drop(true).output();
    let output = timeout(IN_TIME, running).await.unwrap_or_else(|_| panic!("{program} does not end"));
    output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/setup --test installs it"))
}

async fn play() -> (Play, String) {
    let play = Play::new().await;
    let echo = |body: Body| async move { Body::from_stream(body.into_data_stream()) };
    let router = Router::new().route("/", get(async || "hello")).route("/echo", post(echo));
    let address = app(&play.lifecycle, router).await;
    let (_, token) = play.ready_backend(address);
    let url = format!("http://{}/{token}", play.proxy.address);
    (play, url)
}

#[tokio::test]
async fn curl_speaks_http_2_by_prior_knowledge_and_http_1() {
    let (_play, url) = play().await;
    for (how, version) in [("--http2-prior-knowledge", "2"), ("--http1.1", "1.1"), ("--http2", "1.1")] {
        let output =
            run("curl", &["-sS", how, "-w", " %{http_version} %{http_code}", &format!("{url}/")]).await;
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("hello {version} 200"),
            "{how}: {output:?}"
        );
    }
    let large = "x".repeat(100_000);
    for how in ["--http2-prior-knowledge", "--http1.1"] {
        let arguments =
            ["-sS", how, "-H", "expect: 100-continue", "--data-binary", &large, &format!("{url}/echo")];
        let output = run("curl", &arguments).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout), large, "{how}");
    }
}

#[tokio::test]
async fn nghttp_and_h2load_are_served() {
    let (_play, url) = play().await;
    let output = run("nghttp", &["-v", &format!("{url}/")]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    let streams = "SETTINGS_MAX_CONCURRENT_STREAMS(0x03):128";
    for line in [":status: 200", streams, "ENABLE_CONNECT_PROTOCOL"] {
        assert!(said.contains(line) || line.starts_with("ENABLE") && said.contains("0x08"), "{line}: {said}");
    }
    let output = run("h2load", &["-n", "2000", "-c", "4", "-m", "50", &format!("{url}/")]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("2000 succeeded, 0 failed, 0 errored"), "{said}");
}
