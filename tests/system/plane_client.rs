//! Plane's published client crate against our API: `tests/plane-client`, which `tests/run` builds.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::harness::{Options, Role, with_stack};

#[test]
fn planes_client_understands_every_answer() {
    // Plane's client wants a drone's name to begin with `dr`.
    let options = Options::default().with(Role::Drone, &["--name", "dr-plane"]);
    with_stack(options, async |stack| {
        let program = std::env::var("JETWAY_PLANE_CLIENT")
            .context("JETWAY_PLANE_CLIENT: run the tests with tests/run")?;
        let cluster = format!("localhost:{}", stack.proxy_port);
        let mut command = Command::new(program);
        command.args([&stack.api, &stack.image, &cluster, "dr-plane"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{text}");
        Ok(())
    });
}
