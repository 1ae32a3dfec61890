//! The entry point: reads the arguments, starts the runtime, and turns a failure into one line and a non-zero exit.

use std::num::NonZero;
use std::process::ExitCode;

use jetway::cli::{self, Arguments, Threads};
use jetway_service::telemetry;
use tokio::runtime::{Builder, Runtime};

/// Messages are made on one thread and freed on another all the time. The C library's allocator has them wait for each other there:
/// of a controller at work a tenth of the time went into that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let runtime = match runtime(&arguments) {
        Ok(runtime) => runtime,
        Err(error) => {
            telemetry::last_words(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli::run(arguments)) {
        Ok(code) => code,
        Err(error) => {
            // One line, causes included.
            telemetry::last_words(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Threads are for those who serve. A verb makes a call or two, and a health check runs all day. Controllers and drones have
/// Postgres, an engine and sessions beside them: half of the processors does for them, and where one thread is enough no other one is
/// woken for each message.
fn runtime(arguments: &Arguments) -> std::io::Result<Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut builder = match arguments.threads() {
        Threads::One => Builder::new_current_thread(),
        Threads::Half | Threads::All => Builder::new_multi_thread(),
    };
    if arguments.threads() == Threads::Half && std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        builder.worker_threads(processors.div_ceil(2));
    }
    builder.enable_all().build()
}
