//! The real executable as a child process, with the test in the drone's place. One binary, so that it links once.
//! What is decided without the kernel is tested where it is decided, in `src/`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod ahead;
mod ends;
mod harness;
mod lease;
mod line;
mod ready;
mod sandbox;
mod start;
