//! `make bench`: what Jetway promises of its speed, measured from outside beside its peers in one run. It asserts nothing; it prints a
//! table that says which bars are met, and a whole run writes `bench/RESULTS.md`. Postgres and the executables are found by
//! `tests/run --bench`.
//!
//! | file | for |
//! |---|---|
//! | `parts/` | the measures, one a file |
//! | `peer/` | who is measured: Jetway, Plane, Docker, the application alone |
//! | `drones/` | drones that only talk, hundreds in this process |
//! | `process` | what the kernel says of a process that is measured |
//! | `load`, `http`, `hold` | the load generator, its client, and processes that hold connections |
//! | `measure`, `report`, `machine` | numbers, the table, and what it was measured on |

#[path = "../../tests/system/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the harness serves the tests; the benchmarks need part of it")]
mod harness;

mod drones;
mod hold;
mod http;
mod load;
mod machine;
mod measure;
mod parts;
mod peer;
mod process;
mod report;
mod rest;
mod settings;

use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};

use machine::Machine;
use parts::Bench;
use report::Row;
use settings::{Part, Settings};

const RESULTS: &str = "bench/RESULTS.md";
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, words @ ..] = arguments.as_slice()
        && flag == hold::FLAG
    {
        return ended(run(hold::hold(words)));
    }
    match Settings::parse(arguments.into_iter()) {
        Ok(settings) => ended(run(measure(settings))),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jetway-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(body: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut files = getrlimit(Resource::Nofile);
    // A thousand simulated drones have a socket each, and two connections.
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    jetway_service::client::install_crypto();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(body)
}

async fn measure(settings: Settings) -> anyhow::Result<()> {
    let docker = harness::engine::docker().await?;
    let application = std::fs::read(harness::processes::executable("jetway-bench-app")?)?;
    let changes = [r#"ENTRYPOINT ["/app"]"#, "USER 65534:65534"];
    let image = harness::engine::image_of(&docker, "bench", &[("app", &application)], &changes).await?;
    let machine = Machine::look(&docker).await?;
    println!("{machine}");
    let bench = Bench { settings, docker, image };
    let rows = all(&bench).await;
    println!("\n{}", report::table(&rows));
    if bench.settings.is_whole() {
        std::fs::write(Path::new(RESULTS), report::page(&machine, &rows))?;
        println!("written to {RESULTS}");
    }
    Ok(())
}

/// A part that fails is a row that says so.
async fn all(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    let starts = [Part::Hot, Part::Parked, Part::Sandbox, Part::Cold];
    if starts.into_iter().any(|part| bench.settings.is_asked(part)) {
        take(&mut rows, "connect to first byte", parts::first_byte::run(bench).await);
    }
    if bench.settings.is_asked(Part::Sporadic) {
        take(&mut rows, "starts that are rare", parts::sporadic::run(bench).await);
    }
    if bench.settings.is_asked(Part::Live) {
        take(&mut rows, "connects to live keys", parts::live::run(bench).await);
    }
    if bench.settings.is_asked(Part::Close) {
        take(&mut rows, "last close to stop signal", parts::close::run(bench).await);
    }
    if bench.settings.is_asked(Part::Burst) {
        take(&mut rows, "bursts of new keys", parts::burst::run(bench).await);
    }
    if bench.settings.is_asked(Part::Claims) {
        take(&mut rows, "new keys a second", parts::claims::run(bench).await);
    }
    if bench.settings.is_asked(Part::Scale) {
        take(&mut rows, "a large installation", parts::scale::run(bench).await);
    }
    if bench.settings.is_asked(Part::Learned) {
        take(&mut rows, "learned pool", parts::learned::run(bench).await);
    }
    if bench.settings.is_asked(Part::Edge) {
        take(&mut rows, "the edge", parts::edge::run(bench).await);
    }
    if bench.settings.is_asked(Part::Idle) {
        take(&mut rows, "memory of idle WebSockets", parts::idle::run(bench).await);
    }
    if bench.settings.is_asked(Part::Crowd) {
        take(&mut rows, "a crowd", parts::crowd::run(bench).await);
    }
    rows
}

fn take(rows: &mut Vec<Row>, part: &str, measured: anyhow::Result<Vec<Row>>) {
    println!("measured: {part}");
    let measured = measured.unwrap_or_else(|error| vec![Row::failed(part, &format!("{error:#}"))]);
    let mut faults: Vec<_> = measured.iter().filter_map(Row::fault).collect();
    faults.dedup();
    for fault in faults {
        println!("  {fault}");
    }
    rows.extend(measured);
}
