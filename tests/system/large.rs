//! Bodies of any size go through the proxy in a little memory: a gigabyte up, a gigabyte down.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;

use crate::harness::{Options, Role, Stack, with_stack};

const BYTES: usize = 1 << 30;
const PIECE_BYTES: usize = 64 * 1024;
/// What the proxy may take beyond what it had.
const MORE_KB_MAX: u64 = 16 * 1024;
const IN_TIME: Duration = Duration::from_secs(120);

/// A number of `/proc/PID/status`, in kB.
fn status(pid: u32, name: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
    let number = line.trim_start_matches(':').split_whitespace().next().context("a number")?;
    Ok(number.parse()?)
}

/// By how much the proxy's memory grows at its peak, while `carried` goes through it.
async fn grows(
    stack: &Stack,
    what: &str,
    carried: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let pid = stack.pid(Role::Proxy);
    // The peak begins anew (proc(5), clear_refs).
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    let (before, begun) = (status(pid, "VmRSS")?, Instant::now());
    tokio::time::timeout(IN_TIME, carried).await.context("in time")??;
    let seconds = begun.elapsed().as_secs_f64();
    let more = status(pid, "VmHWM")?.saturating_sub(before);
    println!(
        "figure: {what} of 1 GiB: {:.0} MB/s, the proxy's peak {more} kB above {before} kB",
        BYTES as f64 / 1e6 / seconds
    );
    ensure!(more <= MORE_KB_MAX, "{what}: {more} kB more");
    Ok(())
}

#[test]
fn a_gigabyte_up_and_a_gigabyte_down_take_no_more_memory_than_a_few_buffers() {
    with_stack(Options::default(), async |stack| {
        let answer = stack.connect(&stack.request("k", &json!({}), &json!({}))).await?;
        let url = answer["url"].as_str().context("url")?.to_owned();
        let down = async {
            let answer = stack.http.get(format!("{url}download?bytes={BYTES}")).send().await?;
            let (mut pieces, mut got) = (answer.error_for_status()?.bytes_stream(), 0);
            while let Some(piece) = pieces.next().await {
                got += piece?.len();
            }
            ensure!(got == BYTES, "{got}");
            Ok(())
        };
        grows(stack, "a download", down).await?;
        let up = async {
            let piece = Bytes::from(vec![b'x'; PIECE_BYTES]);
            let pieces = futures_util::stream::iter(0..BYTES / PIECE_BYTES)
                .map(move |_| Ok::<_, std::io::Error>(piece.clone()));
            let body = reqwest::Body::wrap_stream(pieces);
            let answer = stack.http.post(format!("{url}upload")).body(body).send().await?;
            let told = answer.error_for_status()?.text().await?;
            ensure!(told == BYTES.to_string(), "{told}");
            Ok(())
        };
        grows(stack, "an upload", up).await
    });
}
