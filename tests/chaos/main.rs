//! The chaos run: clients use sessions on two controllers, three drones with engines of their own and two proxies, while each
//! part is killed, stopped, restarted and cut off at random from a printed seed; then a checker looks for what must not
//! be. A short run is one of the tests; `make chaos MINUTES=10 SEED=…` runs longer. Exit status 0 only if it found nothing. As
//! root, because it makes network namespaces; the machine's own network and engine are left alone.
//!
//! | file | for |
//! |---|---|
//! | `places`, `network`, `parts`, `engine`, `postgres` | the installation, as processes on hosts that are namespaces |
//! | `runtime` | where sessions write, in whatever container |
//! | `schedule`, `driver`, `relay`, `failover` | the faults: which and when (pure), and how |
//! | `pools`, `slots` | what is kept ready and who asks for it; the faults of that |
//! | `client`, `shore`, `seen` | who uses it meanwhile, and what was seen |
//! | `check`, `verdicts`, `ways` | what must not be, and what excuses what (pure) |
//! | `records`, `left`, `sweep` | the sessions' own files; what is left; taking away |
//! | `planted`, `impostors` | whether the checker sees: records, and processes |
//! | `forgotten` | what is left that only an engine could end, and has forgotten |
//! | `run`, `settings`, `stalls` | one run from its beginning to its summary; what it is asked for; how busy the machine was |

#[path = "../system/harness/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the harness serves the tests; the chaos run needs little of it"
)]
mod harness;

#[path = "../app/beats.rs"]
#[expect(dead_code, reason = "the sessions write what this reads")]
mod beats;

mod check;
mod client;
mod driver;
mod engine;
mod failover;
mod forgotten;
mod impostors;
mod left;
mod network;
mod parts;
mod places;
mod planted;
mod pools;
mod postgres;
mod records;
mod relay;
mod run;
mod runtime;
mod schedule;
mod seen;
mod settings;
mod shore;
mod slots;
mod stalls;
mod sweep;
mod verdicts;
mod ways;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};

use settings::{Asked, Settings};

/// Set for the process that stands on the router.
const INSIDE: &str = "JETWAY_CHAOS_INSIDE";

fn main() -> ExitCode {
    if let Some(engine) = runtime::called() {
        if let Err(error) = runtime::go_on(engine) {
            eprintln!("chaos, as a runtime: {error:#}");
        }
        return ExitCode::FAILURE;
    }
    let outcome = match settings::parse(std::env::args().skip(1)) {
        Ok(Asked::List) => {
            println!("chaos: test");
            Ok(true)
        }
        Ok(Asked::Nothing) => Ok(true),
        Ok(Asked::Sweep) => enter().and_then(|()| alone(|| Ok(swept()))),
        Ok(Asked::Run(settings)) => {
            self_tests().and_then(|()| enter()).and_then(|()| alone(|| inside(&settings)))
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn self_tests() -> anyhow::Result<()> {
    schedule::self_test().context("the schedule's own test")?;
    planted::self_test().context("the checker's own test")
}

/// Goes on as the same program on the router of a network of our own.
fn enter() -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let missing = engine::programs();
    ensure!(missing.is_empty(), "not installed: {} (scripts/setup --test)", missing.join(", "));
    ensure!(
        nix::unistd::geteuid().is_root(),
        "it makes network namespaces: run it as root (what needs no root is tests/run -E 'not binary(chaos)')"
    );
    if !std::path::Path::new("/run/netns").join(places::WAN).exists() {
        network::run("ip", &["netns", "add", places::WAN])?;
    }
    let error = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", places::WAN))
        .arg(std::env::current_exe()?)
        .args(std::env::args().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error).context("nsenter")
}

fn swept() -> bool {
    let left = sweep::sweep();
    sweep::leave();
    for what in &left {
        eprintln!("chaos: could not be taken away: {what}");
    }
    left.is_empty()
}

/// One run a machine: everything of a run is found by its name.
fn alone(act: impl FnOnce() -> anyhow::Result<bool>) -> anyhow::Result<bool> {
    let path = std::env::temp_dir().join("jcx.lock");
    let lock = std::fs::File::create(&path)?;
    lock.try_lock().context("another chaos run is under way on this machine")?;
    let outcome = act();
    std::fs::remove_file(&path)?;
    outcome
}

fn inside(settings: &Settings) -> anyhow::Result<bool> {
    let left = sweep::sweep();
    ensure!(left.is_empty(), "an earlier run cannot be taken away: {left:?}");
    jetway_service::client::install_crypto();
    let away = TakenAway;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(run::run(settings));
    runtime.shutdown_background();
    run::keep_logs(settings, &outcome);
    std::mem::forget(away);
    let clean = swept();
    Ok(outcome? && clean)
}

/// Also where this program panics.
struct TakenAway;

impl Drop for TakenAway {
    fn drop(&mut self) {
        swept();
    }
}
