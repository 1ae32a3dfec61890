//! What one session can do on another's origin, in a real browser: nothing. A token leads to its
//! session under that session's own hosts alone, so no script of it runs beside another's cookies.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::browser::Browser;
use crate::harness::{Options, Role, Stack, with_stack};

/// A session's URL, and its backend.
async fn session(stack: &Stack, key: &str, config: &Value) -> anyhow::Result<(String, String)> {
    let mut request = stack.request(key, &json!({}), config);
    request["wait"] = json!("ready");
    let answer = stack.connect(&request).await?;
    let text = |name: &str| answer[name].as_str().map(str::to_owned).context(name.to_owned());
    Ok((text("url")?, text("backend_id")?))
}

/// All cookies that a session's page was asked with.
async fn cookies(stack: &Stack, url: &str) -> anyhow::Result<String> {
    // Names below localhost lead here in a browser; elsewhere only its own does.
    let url = reqwest::Url::parse(url)?;
    let host = url.host_str().context("a host")?.to_owned();
    let path = format!("http://127.0.0.1:{}{}cookies", stack.port(Role::Proxy), url.path());
    let host = format!("{host}:{}", stack.port(Role::Proxy));
    Ok(stack.http.get(path).header("host", host).send().await?.error_for_status()?.text().await?)
}

#[test]
fn no_session_runs_on_the_origin_of_another() {
    with_stack(Options::default(), async |stack| {
        let own = |name: &str| json!({ "subdomain": name });
        let (victim, secret) = session(stack, "victim", &own("victim")).await?;
        let (shared, _) = session(stack, "shared", &json!({})).await?;
        let (other, _) = session(stack, "other", &own("other")).await?;
        let mut browser = Browser::start(&stack.directory).await?;
        for url in [&victim, &shared, &other] {
            let window = browser.open(&format!("{url}page")).await?;
            browser.until(&window, "document.title === 'it ran'").await?;
            browser.close(window).await?;
        }
        // The victim's page again: its cookie is there, and goes where it belongs.
        let window = browser.open(&format!("{victim}page")).await?;
        browser.until(&window, "document.title === 'it ran'").await?;
        ensure!(cookies(stack, &victim).await?.contains(&secret), "{}", cookies(stack, &victim).await?);
        let origin = format!("http://victim.localhost:{}", stack.port(Role::Proxy));
        for attacker in [&shared, &other] {
            let path = reqwest::Url::parse(attacker)?.path().to_owned();
            let asked =
                format!("fetch('{path}page', {{ credentials: 'include' }}).then(answer => answer.status)");
            let status = browser.evaluate(&window, &asked).await?;
            ensure!(status == 404, "{attacker} on {origin}: {status}");
            let attacked = browser.open(&format!("{origin}{path}page")).await?;
            browser
                .until(&attacked, "document.readyState === 'complete' && location.href !== 'about:blank'")
                .await?;
            let title = browser.evaluate(&attacked, "document.title").await?;
            ensure!(title != "it ran", "{attacker} ran on {origin}");
            browser.close(attacked).await?;
            let seen = cookies(stack, attacker).await?;
            ensure!(!seen.contains(&secret), "{attacker} has seen the victim's cookie: {seen}");
        }
        browser.end().await
    });
}
