//! Real applications, each used as a person uses it, in headless Chromium before a whole `jetway dev`. `make apps` makes their images
//! (examples/apps/build) and runs this; names of applications choose some. docs/apps.md says what each needs to know.

#[path = "../system/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the harness serves the tests; this needs little of it")]
mod harness;

mod events;
mod jupyterlab;
mod streamlit;
mod wetty;
mod yjs;

use std::time::Instant;

use anyhow::ensure;
use serde_json::json;

use harness::dev::run;
use harness::site::Site;

/// For sessions that a page in trouble must not lose.
pub const IDLE_SECONDS: u32 = 15;
const APPS: [&str; 5] = ["events", "yjs", "wetty", "streamlit", "jupyterlab"];

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    run(async {
        for name in &chosen {
            ensure!(APPS.contains(&name.as_str()), "no application {name}; there are: {APPS:?}");
        }
        for name in APPS.into_iter().filter(|name| chosen.is_empty() || chosen.iter().any(|c| c == name)) {
            let start = Instant::now();
            let mut site = Site::start(&format!("app-{name}")).await?;
            used(&mut site, name).await?;
            site.end().await?;
            println!("{name}: used, in {:.1} s", start.elapsed().as_secs_f64());
        }
        Ok(())
    });
}

async fn used(site: &mut Site, name: &str) -> anyhow::Result<()> {
    let image = json!({ "image": format!("jetway-app-{name}:latest") });
    match name {
        "events" => events::used(site, &image).await,
        "yjs" => yjs::used(site, &image).await,
        "wetty" => wetty::used(site, &image).await,
        "streamlit" => streamlit::used(site, &image).await,
        "jupyterlab" => jupyterlab::used(site, &image).await,
        _ => anyhow::bail!("nobody uses {name}"),
    }
}
