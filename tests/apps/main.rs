//! Real applications, each used as a person uses it, in headless Chromium before a whole `jetway dev`. `make apps` makes their images
//! (examples/apps/build) and runs this; names of applications choose some. What is done with each is a file in `walks/`.
//! docs/apps.md says what each needs to know.
//!
//! `--plain` walks in containers without Jetway instead: it tells whose fault a failed walk is.

#[path = "../figures/bare.rs"]
mod bare;
#[path = "../system/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the harness serves the tests; this needs little of it")]
mod harness;

mod crossing;
mod everywhere;
mod figures;
mod hands;
mod place;
mod steps;
mod walk;
mod webapp;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use crossing::Stage;
use harness::browser::Browser;
use harness::dev::{directory, run};
use harness::site::Site;
use place::{Container, Place, Session};
use steps::Walker;
use walk::{Form, Walk};
use webapp::WebApp;

/// What is no walk: how pages and people share a browser, and how long it takes.
const CROSSINGS: [&str; 3] = ["framed", "two-people", "figures"];

fn main() {
    let (plain, chosen): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument == "--plain");
    run(async {
        let walks = walks()?;
        let is_known = |name: &str| CROSSINGS.contains(&name) || walks.iter().any(|walk| walk.name == name);
        for name in &chosen {
            ensure!(is_known(name), "no application {name}");
        }
        let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|other| other == name);
        let mut failed = Vec::new();
        for walk in walks.iter().filter(|walk| is_chosen(&walk.name)) {
            let forms: &[Option<Form>] = &walk.forms.iter().copied().map(Some).collect::<Vec<_>>();
            for form in if plain.is_empty() { forms } else { &[None] } {
                let name = format!("{}, {}", walk.name, form.map_or("plain", Form::name));
                told(&name, &mut failed, used(walk, *form)).await;
            }
        }
        for name in CROSSINGS.into_iter().filter(|name| plain.is_empty() && is_chosen(name)) {
            told(name, &mut failed, crossed(name, &walks)).await;
        }
        ensure!(failed.is_empty(), "failed: {}", failed.join("; "));
        Ok(())
    });
}

/// One failed walk does not keep the others from being walked.
async fn told(name: &str, failed: &mut Vec<String>, walked: impl Future<Output = anyhow::Result<()>>) {
    let start = Instant::now();
    match walked.await {
        Ok(()) => println!("{name}: used, in {:.1} s", start.elapsed().as_secs_f64()),
        Err(error) => {
            // The script that finds a sight says nothing to the reader of a failure.
            let error = format!("{error:#}").replace(hands::FIND, "seen").replace(hands::TEXT, "text");
            println!("{name}: FAILED, in {:.1} s: {error}", start.elapsed().as_secs_f64());
            failed.push(name.to_owned());
        }
    }
}

fn walks() -> anyhow::Result<Vec<Walk>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("apps/walks");
    let mut walks = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("a name")?;
        walks.push(Walk::parse(name, &std::fs::read_to_string(&path)?)?);
    }
    walks.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(walks)
}

async fn used(walk: &Walk, form: Option<Form>) -> anyhow::Result<()> {
    let Some(form) = form else { return used_plainly(walk).await };
    let mut site = Site::start(&format!("app-{}-{}", walk.name, form.name())).await?;
    let webapp = WebApp::start(&site.dev.api).await?;
    if walk.mount {
        open_mount(&site, &walk.name)?;
    }
    let directory = site.dev.directory.clone();
    let session = Session::of(walk, form, &site.dev, &webapp)?;
    let mut walker = Walker::new(&mut site.browser, Place::Session(session), &directory);
    walker.walk(walk).await?;
    if form == Form::Host {
        everywhere::checked(&mut walker, walk).await?;
    }
    walker.leave_all().await?;
    site.end().await
}

/// The drone would make it root's; the application is not root.
fn open_mount(site: &Site, name: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let directory = site.dev.directory.join("mounts").join(name);
    std::fs::create_dir_all(&directory)?;
    Ok(std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?)
}

async fn used_plainly(walk: &Walk) -> anyhow::Result<()> {
    let directory = directory(&format!("app-{}", walk.name));
    std::fs::create_dir_all(&directory)?;
    let container = Container::start(walk).await?;
    let mut browser = Browser::start(&directory).await?;
    let walked = Walker::new(&mut browser, Place::Container(container), &directory).walk(walk).await;
    browser.end().await?;
    std::fs::remove_dir_all(&directory)?;
    walked
}

async fn crossed(name: &str, walks: &[Walk]) -> anyhow::Result<()> {
    let walk = |name: &str| walks.iter().find(|walk| walk.name == name).context("a walk");
    let mut site = Site::start(name).await?;
    let webapp = WebApp::start(&site.dev.api).await?;
    let mut stage = Stage { browser: &mut site.browser, dev: &site.dev, webapp: &webapp };
    match name {
        "framed" => crossing::framed(stage, walk("socketio")?).await?,
        "two-people" => crossing::two_people(stage, walk("express")?).await?,
        "figures" => {
            figures::paint(&mut stage, walk("yjs")?).await?;
            figures::paint(&mut stage, walk("streamlit")?).await?;
            figures::bookmark(&mut stage, walk("express")?).await?;
        }
        _ => bail!("no crossing {name}"),
    }
    site.end().await
}
