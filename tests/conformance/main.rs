//! The cases of the Autobahn test suite, run by kosoku against an application in a session: once at its own address, once through
//! the proxy. `make conformance` runs it by hand; it fails where the proxy changes a verdict.

#[path = "../system/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the harness serves the tests; this needs little of it")]
mod harness;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use harness::drone::Drone;
use harness::{Options, Session, with_stack};

/// Compression, which the application does not offer.
const EXCLUDED: [&str; 2] = ["12.*", "13.*"];
/// Fewer would mean that most of the suite was not run.
const CASES_MIN: usize = 250;

/// Of each case: its verdict, and that on the close.
type Verdicts = BTreeMap<String, (String, String)>;

fn main() {
    with_stack(Options::default(), async |stack| {
        let kosoku = std::env::var("JETWAY_KOSOKU").context("JETWAY_KOSOKU: run `make conformance`")?;
        let answer = stack.connect(&stack.request("autobahn", &json!({}), &json!({}))).await?;
        let url = answer["url"].as_str().context("url")?;
        let mut session = Session::open(url).await?;
        session.echo("it is there").await?;
        let backend = answer["backend_id"].as_str().context("backend_id")?;
        let view = Drone::of(stack).await?.call("GET", &format!("/b/{backend}"), Value::Null).await?;
        let address = view["address"].as_str().context("address")?;

        let reports = std::env::temp_dir().join(format!("jetway-conformance-{}", std::process::id()));
        let direct = run(&kosoku, &format!("ws://{address}/ws"), &reports.join("direct")).await?;
        let proxied = format!("{}ws", url.replacen("http://", "ws://", 1));
        let proxied = run(&kosoku, &proxied, &reports.join("proxied")).await?;
        std::fs::remove_dir_all(&reports)?;
        session.echo("and still is").await?;
        compare(&direct, &proxied)
    });
}

async fn run(kosoku: &str, url: &str, reports: &Path) -> anyhow::Result<Verdicts> {
    let mut command = Command::new(kosoku);
    command.args(["-m", "fuzzingclient", "-o"]).arg(reports);
    command.args(EXCLUDED.iter().flat_map(|case| ["-x", case])).arg(url);
    let output = command.output().await.with_context(|| format!("{kosoku} does not run"))?;
    let index = std::fs::read_to_string(reports.join("index.json")).with_context(|| {
        format!("kosoku has reported nothing: {}", String::from_utf8_lossy(&output.stderr).trim())
    })?;
    let index: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&index)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let cases = index.into_values().next().context("kosoku's report is empty")?;
    Ok(cases
        .into_iter()
        .map(|(case, seen)| (case, (text(&seen["behavior"]), text(&seen["behaviorClose"]))))
        .collect())
}

fn compare(direct: &Verdicts, proxied: &Verdicts) -> anyhow::Result<()> {
    for (what, verdicts) in [("at its own address", direct), ("through the proxy", proxied)] {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        verdicts.values().for_each(|(verdict, _)| *counts.entry(verdict).or_default() += 1);
        println!("{what}: {} cases: {counts:?}", verdicts.len());
    }
    let cases: Vec<_> = direct.keys().chain(proxied.keys()).collect();
    let mut other: Vec<_> =
        cases.into_iter().filter(|case| direct.get(*case) != proxied.get(*case)).collect();
    other.dedup();
    for case in &other {
        println!(
            "case {case}: {:?} at its own address, {:?} through the proxy",
            direct.get(*case),
            proxied.get(*case)
        );
    }
    ensure!(direct.len() >= CASES_MIN, "only {} cases were run", direct.len());
    ensure!(other.is_empty(), "{} verdicts differ", other.len());
    println!("every verdict is the same");
    Ok(())
}
