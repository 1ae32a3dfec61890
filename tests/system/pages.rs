//! What a person sees who opens a URL before its session is ready, in a real browser: a page that follows the start and enters by itself, and
//! one that stays and says why, where nothing comes of it. `JETWAY_TEST_SCREENSHOTS=DIRECTORY` keeps pictures.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::browser::{Browser, Window};
use crate::harness::{Options, Stack, with_stack};

const SOON: Duration = Duration::from_secs(20);

async fn connect(stack: &Stack, key: &str, env: &Value, config: &Value) -> anyhow::Result<(String, String)> {
    let answer = stack.connect(&stack.request(key, env, config)).await?;
    let text = |name: &str| answer[name].as_str().map(str::to_owned).context(name.to_owned());
    Ok((text("url")?, text("backend_id")?))
}

async fn keep_picture(browser: &mut Browser, window: &Window, name: &str) -> anyhow::Result<()> {
    if let Some(directory) = std::env::var_os("JETWAY_TEST_SCREENSHOTS") {
        let picture = browser.screenshot(window).await?;
        std::fs::write(std::path::Path::new(&directory).join(format!("{name}.png")), picture)?;
    }
    Ok(())
}

fn milliseconds(value: &Value) -> anyhow::Result<f64> {
    value.as_f64().with_context(|| format!("a number: {value}"))
}

#[test]
fn who_opens_a_url_before_its_session_is_ready_sees_how_far_it_is_and_is_let_in() {
    with_stack(Options::default(), async |stack| {
        let slow = json!({ "START_DELAY_MS": "2500" });
        // So that this drone knows what is usual.
        let (_, first) = connect(stack, "first", &slow, &json!({})).await?;
        stack.until_status(&first, "ready", SOON).await?;
        let mut browser = Browser::start(&stack.directory).await?;
        let (url, backend) = connect(stack, "k", &slow, &json!({})).await?;
        let window = browser.open(&url).await?;
        browser
            .until(
                &window,
                "/Waiting for the application/.test(document.querySelector('#stage').textContent)",
            )
            .await?;
        browser
            .until(&window, "/^Usually \\d+ seconds\\.$/.test(document.querySelector('#usual').textContent)")
            .await?;
        browser.until(&window, "document.querySelector('progress').value > .3").await?;
        keep_picture(&mut browser, &window, "waiting").await?;
        let paint = "performance.getEntriesByType('paint').find(one => one.name === 'first-contentful-paint').startTime";
        println!(
            "figure: waiting page, navigation to first paint: {:.0} ms",
            milliseconds(&browser.evaluate(&window, paint).await?)?
        );
        browser.until(&window, "document.body.innerText === 'hello'").await?;
        let entered = "performance.timeOrigin + performance.getEntriesByType('navigation')[0].responseEnd";
        let entered = milliseconds(&browser.evaluate(&window, entered).await?)?;
        let ready = stack.status(&backend).await?["time"].as_i64().context("when it was ready")?;
        println!("figure: waiting page, ready to entered: {:.0} ms", entered - ready as f64);
        browser.end().await
    });
}

#[test]
fn a_start_that_fails_is_said_in_words_and_can_be_tried_once_more() {
    with_stack(Options::default(), async |stack| {
        let mut browser = Browser::start(&stack.directory).await?;
        let never = json!({ "MODE": "never" });
        let (url, _) = connect(stack, "k", &never, &json!({ "start_timeout_seconds": 3 })).await?;
        let window = browser.open(&url).await?;
        browser.until(&window, "document.title === 'Starting'").await?;
        browser.until(&window, "document.title === 'This did not start'").await?;
        browser
            .until(
                &window,
                "document.activeElement.id === 'again' && document.querySelector('progress').hidden",
            )
            .await?;
        let said = browser.evaluate(&window, "document.querySelector('#stage').textContent").await?;
        ensure!(said.as_str().is_some_and(|said| said.starts_with("This session has ended")), "{said}");
        keep_picture(&mut browser, &window, "failed").await?;
        browser.evaluate(&window, "document.querySelector('#again').click()").await?;
        browser.until(&window, "document.title === 'This link leads nowhere any more'").await?;
        browser.end().await
    });
}
