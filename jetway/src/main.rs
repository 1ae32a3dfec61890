//! The entry point: reads the arguments, starts the runtime, and turns a failure into one line and a non-zero exit.

use std::process::ExitCode;

use jetway::cli::{self, Arguments};

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("jetway: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli::run(arguments)) {
        Ok(code) => code,
        Err(error) => {
            // One line, causes included: what an operator pastes into a search box.
            eprintln!("jetway: {error:#}");
            ExitCode::FAILURE
        }
    }
}
