//! Sessions at the root of hosts of their own, as a browser meets them: the cluster is HTTPS at a domain of two labels, so
//! that its sessions are siblings of one site, and a web app of another site sends people there and takes them back.
//! `acme/host_form.rs` has the same with certificates that are ordered.

mod bookmarks;
mod entry;
mod siblings;
pub mod web_app;
mod workers;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::browser::{Browser, Window};
use crate::harness::cluster::Cluster;
use crate::harness::{Stack, with_stack};
use web_app::WebApp;

/// What connect answered in the host form.
pub struct Entry {
    pub url: String,
    /// Where the session is, as its pages' origin.
    pub origin: String,
    pub backend: String,
    pub answer: Value,
}

impl Entry {
    pub async fn connect(stack: &Stack, request: &Value) -> anyhow::Result<Self> {
        Self::of(stack.connect(request).await?)
    }

    fn of(answer: Value) -> anyhow::Result<Self> {
        let text = |name: &str| answer[name].as_str().map(str::to_owned).context(name.to_owned());
        let url = text("url")?;
        let (origin, _) = url.split_once("/.jetway/enter?token=").with_context(|| url.clone())?;
        Ok(Self { origin: origin.to_owned(), backend: text("backend_id")?, url: url.clone(), answer })
    }

    /// To a page of the session's.
    pub fn to(&self, path: &str) -> String {
        format!("{}&path={}", self.url, web_app::encode(path))
    }
}

/// The request for a key whose application serves these files besides, for a user.
pub fn request(stack: &Stack, key: &str, user: &str, files: &Value) -> Value {
    let env = json!({ "FILES": files.to_string() });
    let mut request = stack.request(key, &env, &json!({}));
    request["user"] = json!(user);
    request["url_form"] = json!("host");
    request["wait"] = json!("ready");
    request
}

/// A test against a cluster, a web app and a browser of its own.
fn with_cluster<F>(test: F)
where
    F: AsyncFnOnce(&mut Stack, &WebApp, &mut Browser) -> anyhow::Result<()>,
{
    let cluster = Cluster::prepare().expect("a cluster");
    let options = cluster.with_files().expect("a certificate");
    with_stack(options, async |stack| {
        let web_app = WebApp::start(stack).await?;
        let others = [(web_app::HOST, web_app.port)];
        let mut browser = cluster.browser(&cluster.trusted()?, &others).await?;
        test(stack, &web_app, &mut browser).await?;
        browser.end().await
    });
}

/// Asks again where the browser gave a request up because an interface of this machine came or went.
pub fn again(promise: &str) -> String {
    format!(
        "(async () => {{ for (let turn = 0; ; turn++) try {{ return await {promise}; }} \
         catch (error) {{ if (turn === 5) throw error; await new Promise((done) => setTimeout(done, 300)); }} }})()"
    )
}

/// The requests that the application has had, as a page of its own reads them.
pub async fn seen(browser: &mut Browser, own: &Window) -> anyhow::Result<Vec<Value>> {
    let all = browser.evaluate(own, &again("fetch('/seen').then((answer) => answer.json())")).await?;
    all.as_array().cloned().with_context(|| all.to_string())
}

/// A header of a request that the application has had.
pub fn header<'a>(request: &'a Value, name: &str) -> Option<&'a str> {
    let mut pairs = request["headers"].as_array()?.iter();
    pairs.find(|pair| pair[0] == name).and_then(|pair| pair[1].as_str())
}

/// What the proxy tells the session's application of the window: `username` or `backend`.
pub async fn verified(browser: &mut Browser, own: &Window, what: &str) -> anyhow::Result<Option<String>> {
    let answer = browser.evaluate(own, &again("fetch('/headers').then((answer) => answer.json())")).await?;
    Ok(header(&answer, &format!("x-verified-{what}")).map(str::to_owned))
}

/// Goes to an address as a person does who types it, and waits for the test application's page.
pub async fn enter(browser: &mut Browser, window: &Window, url: &str) -> anyhow::Result<()> {
    browser.navigate(window, url).await?;
    shows(browser, window, "/page").await
}

/// Waits for the test application's page at this path.
pub async fn shows(browser: &mut Browser, window: &Window, path: &str) -> anyhow::Result<()> {
    let path = path.replace('\'', "\\'");
    let shown = format!("document.title === 'it ran' && location.pathname + location.search === '{path}'");
    browser.until(window, &shown).await
}

/// Neither a page nor a person finds a token in the window, or in what has led to it.
pub async fn no_token(browser: &mut Browser, window: &Window) -> anyhow::Result<()> {
    const READABLE: &str = "JSON.stringify([location.href, document.referrer, document.cookie, \
        navigation.entries().map((entry) => entry.url), performance.getEntries().map((entry) => entry.name)])";
    let page = browser.evaluate(window, READABLE).await?.to_string();
    let history = browser.history(window).await?.join("\n");
    for text in [&page, &history] {
        ensure!(!text.contains("token=") && !text.contains("__Host-jetway"), "a token can be read: {text}");
    }
    Ok(())
}

/// The application was shown no token either, nor what another page would leave of one.
pub fn no_token_seen(seen: &[Value]) -> anyhow::Result<()> {
    let bad = seen.iter().find(|request| {
        let text = request.to_string();
        let is_ours = request["path"].as_str().is_some_and(|path| path.starts_with("/.jetway/"));
        is_ours || text.contains("token=") || text.contains("__Host-jetway")
    });
    match bad {
        Some(request) => anyhow::bail!("the application was shown {request}"),
        None => Ok(()),
    }
}
