//! The entry point: reads the arguments, starts the runtime, and turns a failure into one line and a non-zero exit.

use std::process::ExitCode;

use jetway::cli::{self, Arguments};
use jetway_service::telemetry;
use tokio::runtime::{Builder, Runtime};

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

/// Threads are for those who serve. A verb makes a call or two, and a health check runs all day.
fn runtime(arguments: &Arguments) -> std::io::Result<Runtime> {
    let mut builder =
        if arguments.is_verb() { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.enable_all().build()
}
