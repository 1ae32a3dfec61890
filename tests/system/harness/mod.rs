//! One installation a test: its processes, its database, its directories, and the proof that nothing is left of it.

pub mod browser;
pub mod client;
pub mod cluster;
pub mod compose;
pub mod dev;
pub mod drone;
pub mod options;
pub mod pools;
pub mod site;
pub mod stack;

pub use client::{Place, Session, SseStream};
pub use jetway_testkit::{database, engine, eventually, processes};
pub use options::{Elsewhere, Options, Role};
pub use stack::Stack;

/// Runs a test body against a stack of its own, then ends the stack and asserts that nothing is left.
pub fn with_stack<F>(options: Options, body: F)
where
    F: AsyncFnOnce(&mut Stack) -> anyhow::Result<()>,
{
    block_on(over_stack(options, body));
}

/// For a test that needs more around its stack than that.
pub fn block_on(test: impl Future<Output = ()>) {
    jetway_service::client::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

/// The same as [`with_stack`], on the caller's runtime.
pub async fn over_stack<F>(options: Options, body: F)
where
    F: AsyncFnOnce(&mut Stack) -> anyhow::Result<()>,
{
    let mut stack = Stack::start(options).await.expect("the stack starts");
    let outcome = body(&mut stack).await;
    if let Err(error) = outcome {
        let logs = stack.logs();
        stack.abandon().await;
        panic!("{error:#}\n{logs}");
    }
    if let Err(error) = stack.end().await {
        stack.abandon().await;
        panic!("after the test: {error:#}");
    }
}
