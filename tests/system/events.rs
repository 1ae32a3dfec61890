//! The lightest of the applications in examples/apps, with every run of the tests: it needs nothing but Python.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::dev::run;
use crate::harness::site::Site;

#[path = "../apps/events.rs"]
mod app;

const PROGRAM: &str = include_str!("../../examples/apps/events/events.py");

/// An image of this machine's own Python.
fn python() -> anyhow::Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the root")?;
    let made = Command::new(root.join("tests/compose/images")).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = String::from_utf8(made.stdout)?;
    let image = made.lines().find_map(|line| line.strip_prefix("PYTHON_IMAGE=")).context("an image")?;
    Ok(image.to_owned())
}

#[test]
fn a_page_of_server_sent_events_flows_and_is_use_as_long_as_it_is_open() {
    run(async {
        let image = python()?;
        let executable = json!({ "image": image, "cmd": ["python3", "-c", PROGRAM], "user": "65534:65534" });
        let mut site = Site::start("events").await?;
        app::used(&mut site, &executable).await?;
        site.end().await
    });
}
