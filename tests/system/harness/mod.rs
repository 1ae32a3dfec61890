//! One installation a test: its processes, its database, its directories, and the proof that nothing is left of it.

pub mod browser;
pub mod client;
pub mod compose;
pub mod engine;
pub mod eventually;
pub mod processes;
pub mod stack;

pub use client::{Session, SseStream};
pub use eventually::eventually;
pub use stack::{Elsewhere, Options, Role, Stack};

/// Runs a test body against a stack of its own, then ends the stack and asserts that nothing is left.
pub fn with_stack<F>(options: Options, body: F)
where
    F: AsyncFnOnce(&mut Stack) -> anyhow::Result<()>,
{
    jetway_service::client::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut stack = Stack::start(options).await.expect("the stack starts");
        let outcome = body(&mut stack).await;
        if let Err(error) = outcome {
            let logs = stack.logs();
            stack.abandon().await;
            panic!("{error:#}\n{logs}");
        }
        if let Err(error) = stack.end().await {
            panic!("after the test: {error:#}");
        }
    });
}
