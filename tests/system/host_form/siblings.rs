//! What the pages of a session reach of another session of the cluster, which a browser takes for the same site: nothing
//! but a visit that the person sees. The person is signed in to both.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{Entry, enter, no_token, request, seen, shows, verified, with_cluster};
use crate::harness::Stack;
use crate::harness::browser::{Browser, Window};
use crate::harness::cluster::CLUSTER;

/// The victim's own page has loaded each of them, so that they are in the browser's cache.
const CACHED: [&str; 3] = ["/cached.html", "/cached.js", "/cached.svg"];

/// Of a connection for two hosts.
const TRIES_MAX: u32 = 8;

/// Asks in each way that a page has, each under a path of its own, and says how each went. What is tried by a worker needs
/// an origin where one can be registered.
const ATTACKS: &str = r#"(async (victim, here) => {
    const went = {}, heard = [], target = (name) => `${victim}/attack/${name}`;
    const socket = victim.replace('https', 'wss') + '/ws';
    addEventListener('message', (event) => heard.push(event.data));
    const tried = async (name, attack) => {
        const late = new Promise((done) => setTimeout(done, 2500, 'nothing'));
        try { went[name] = String(await Promise.race([attack(target(name)), late])); } catch (error) { went[name] = 'refused'; }
    };
    const element = (kind, more) => new Promise((loaded, failed) => {
        const one = Object.assign(document.createElement(kind), more, { onload: () => loaded('loaded'), onerror: failed });
        document.body.append(one);
    });
    const form = (action, target) => {
        const one = Object.assign(document.createElement('form'), { method: 'POST', action, target });
        document.body.append(one);
        one.submit();
    };
    const blind = { mode: 'no-cors', credentials: 'include' };
    await Promise.all([
        tried('fetch', (url) => fetch(url, { credentials: 'include' }).then((answer) => answer.text())),
        tried('blind', (url) => fetch(url, blind).then(() => 'sent')),
        tried('stage', (url) => fetch(url, { ...blind, headers: { accept: 'application/vnd.jetway.stage+json' } }).then(() => 'sent')),
        tried('post', (url) => fetch(url, { ...blind, method: 'POST', body: 'x' }).then(() => 'sent')),
        tried('put', (url) => fetch(url, { method: 'PUT', credentials: 'include', body: 'x' })),
        tried('header', (url) => fetch(url, { credentials: 'include', headers: { 'x-own': 'x' } })),
        tried('beacon', (url) => navigator.sendBeacon(url, 'x')),
        tried('script', (src) => element('script', { src })),
        tried('module', (src) => element('script', { src, type: 'module' })),
        tried('picture', (src) => element('img', { src })),
        tried('style', (href) => element('link', { href, rel: 'stylesheet' })),
        tried('prefetch', (href) => element('link', { href, rel: 'prefetch' })),
        tried('object', (data) => element('object', { data })),
        tried('video', (src) => element('video', { src })),
        tried('frame', (src) => element('iframe', { src })),
        tried('form', async (url) => { const frame = element('iframe', { name: 'target' }); form(url, 'target'); return frame; }),
        tried('sandboxed', (url) => element('iframe', { sandbox: 'allow-scripts allow-forms',
            srcdoc: `<form method=post action="${url}"></form><script>document.forms[0].submit()</script>` })),
        tried('socket', () => new Promise((opened, failed) => {
            const one = new WebSocket(socket);
            one.onopen = () => one.send('attack');
            one.onmessage = (event) => opened(event.data);
            one.onerror = one.onclose = failed;
        })),
        tried('events', (url) => new Promise((opened, failed) => {
            Object.assign(new EventSource(url, { withCredentials: true }), { onopen: opened, onerror: failed });
        })),
        tried('register', (url) => navigator.serviceWorker.register(url).then(() => 'registered')),
        tried('worker', async (url) => {
            const { active, installing, waiting } = await navigator.serviceWorker.register(here);
            const answer = new Promise((done) => { navigator.serviceWorker.onmessage = (event) => done(event.data); });
            (active ?? waiting ?? installing).postMessage(url);
            return answer;
        }),
        tried('cached script', () => element('script', { src: victim + '/cached.js' })),
        tried('cached picture', () => element('img', { src: victim + '/cached.svg' })),
        tried('cached frame', () => element('iframe', { src: victim + '/cached.html' })),
    ]);
    return { went, heard, stolen: window.stolen ?? null };
})"#;

/// The sibling's own worker asks what its page says.
const WORKER: &str = "self.addEventListener('message', (event) => event.waitUntil(
    fetch(event.data, { mode: 'no-cors', credentials: 'include' }).then(() => 'sent', () => 'refused')
        .then((how) => event.source.postMessage(how))))";

/// What a script may try to give its siblings as a cookie of ours.
const TOSSED: &str = "['__Host-jetway=tossed', '__host-jetway=tossed', '=__Host-jetway=tossed', '__Host-jetway =tossed',
        '__Host-jetway-enter=tossed', '\\u00a0__Host-jetway=tossed'].forEach((pair) => {
        for (const path of ['/', '/page']) document.cookie = `${pair}; Domain=sessions.test; Secure; Path=${path}`; })";

fn victims_files() -> Value {
    let cached = json!({ "cache-control": "public, max-age=600" });
    json!({
        "/cached.html": { "type": "text/html", "body": "<script>parent.postMessage('framed', '*')</script>", "headers": cached },
        "/cached.js": { "type": "text/javascript", "body": "window.stolen = 'yes'", "headers": cached },
        "/cached.svg": { "type": "image/svg+xml", "body": "<svg xmlns='http://www.w3.org/2000/svg'/>", "headers": cached },
    })
}

fn siblings_files() -> Value {
    json!({
        "/worker.js": { "type": "text/javascript", "body": WORKER },
        "/toss": {
            "type": "text/html", "body": "<title>tossed</title>",
            "headers": { "set-cookie": "served=tossed; Domain=sessions.test; Path=/" },
        },
    })
}

#[test]
fn a_sibling_reaches_nothing_of_a_session() {
    with_cluster(async |stack, _, browser| {
        let victim = Entry::connect(stack, &request(stack, "victim", "ada", &victims_files())).await?;
        let window = browser.open("about:blank").await?;
        browser.watch(&window).await?;
        enter(browser, &window, &victim.to("/page")).await?;
        no_token(browser, &window).await?;
        let cached = format!(
            "Promise.all({}.map((path) => fetch(path).then((answer) => answer.text()))).then((all) => all.length)",
            json!(CACHED)
        );
        ensure!(browser.evaluate(&window, &cached).await? == CACHED.len());

        let sibling = Entry::connect(stack, &request(stack, "sibling", "ada", &siblings_files())).await?;
        let (attacker, here) = (browser.open("about:blank").await?, format!("{}/worker.js", sibling.origin));
        browser.watch(&attacker).await?;
        enter(browser, &attacker, &sibling.to("/page")).await?;
        one_connection_serves_both(browser, &[(&window, &victim), (&attacker, &sibling)]).await?;
        attacked(browser, &window, &attacker, &victim.origin, &here).await.context("by a sibling")?;
        visits_pass(browser, &window, &attacker, &victim.origin).await?;
        tossed(browser, &window, &attacker, &victim.origin).await.context("by a sibling")?;

        // In the path form without a subdomain: at the cluster's own name, the parent of them all.
        let parent = parent(stack).await?;
        browser.navigate(&attacker, &format!("{parent}page")).await?;
        browser.until(&attacker, "document.title === 'it ran'").await?;
        let here = format!("{parent}worker.js");
        attacked(browser, &window, &attacker, &victim.origin, &here).await.context("by the parent")?;
        tossed(browser, &window, &attacker, &victim.origin).await.context("by the parent")?;
        Ok(())
    });
}

async fn parent(stack: &Stack) -> anyhow::Result<String> {
    let mut request = request(stack, "parent", "ada", &siblings_files());
    request["url_form"] = json!("path");
    let answer = stack.connect(&request).await?;
    let url = answer["url"].as_str().context("a URL")?;
    ensure!(url.starts_with(&format!("https://{CLUSTER}/")), "{url}");
    Ok(url.to_owned())
}

/// Nothing of all that has reached the victim's application, and nothing of it the attacker.
async fn attacked(
    browser: &mut Browser,
    victim: &Window,
    attacker: &Window,
    origin: &str,
    here: &str,
) -> anyhow::Result<()> {
    let attacks = format!("{ATTACKS}({}, {})", json!(origin), json!(here));
    let said = browser.evaluate(attacker, &attacks).await?;
    println!("attacks went: {said}");
    let went = said["went"].as_object().context("how they went")?;
    ensure!(went.len() >= 24, "not all was tried: {said}");
    for name in
        ["fetch", "put", "header", "script", "module", "picture", "style", "video", "socket", "events"]
    {
        ensure!(went[name] == "refused", "{name}: {said}");
    }
    for name in ["register", "cached script", "cached picture"] {
        ensure!(went[name] == "refused", "{name}: {said}");
    }
    ensure!(said["heard"] == json!([]) && said["stolen"].is_null(), "the attacker has something: {said}");
    let seen = seen(browser, victim).await?;
    let path = |request: &&Value| request["path"].as_str().unwrap_or_default().to_owned();
    let reached: Vec<_> =
        seen.iter().filter(|one| path(one).starts_with("/attack/") || path(one) == "/ws").collect();
    ensure!(reached.is_empty(), "it has reached the application: {reached:?}");
    let framed = seen.iter().filter(|one| path(one) == "/cached.html").count();
    ensure!(framed == 1, "the frame was asked of the application");
    Ok(())
}

/// A person who is led to the session by a link sees it, as it is; who has led them there cannot look in.
async fn visits_pass(
    browser: &mut Browser,
    victim: &Window,
    attacker: &Window,
    origin: &str,
) -> anyhow::Result<()> {
    let opened = format!("void (window.other = window.open({}))", json!(format!("{origin}/page?opened")));
    browser.evaluate_clicked(attacker, &opened).await?;
    let popup = browser.opened("/page?opened").await?;
    shows(browser, &popup, "/page?opened").await?;
    ensure!(verified(browser, &popup, "username").await?.as_deref() == Some("ada"), "another user's");
    let look =
        "(() => { try { return window.other.document.title; } catch (error) { return error.name; } })()";
    let looked = browser.evaluate(attacker, look).await?;
    ensure!(looked == "SecurityError", "the opener sees {looked}");
    browser.close(popup).await?;

    let posted = "(url) => { const form = Object.assign(document.createElement('form'), \
        { method: 'POST', action: url, target: '_blank' }); document.body.append(form); form.submit(); }";
    let url = json!(format!("{origin}/attack/posted"));
    browser.evaluate_clicked(attacker, &format!("({posted})({url})")).await?;
    let popup = browser.opened("/attack/posted").await?;
    browser.until(&popup, "document.readyState === 'complete' && document.body.innerText !== ''").await?;
    browser.close(popup).await?;
    let seen = seen(browser, victim).await?;
    let reached = seen.iter().find(|request| request["path"] == "/attack/posted");
    ensure!(reached.is_none(), "a form has reached the application: {reached:?}");
    Ok(())
}

/// No cookie that a sibling leaves makes its victim another, or nobody.
async fn tossed(
    browser: &mut Browser,
    victim: &Window,
    attacker: &Window,
    origin: &str,
) -> anyhow::Result<()> {
    browser.evaluate(attacker, TOSSED).await?;
    browser.evaluate(attacker, "fetch('toss').then((answer) => answer.text())").await?;
    enter(browser, victim, &format!("{origin}/page")).await?;
    let answer =
        browser.evaluate(victim, &super::again("fetch('/headers').then((answer) => answer.json())")).await?;
    ensure!(super::header(&answer, "x-verified-username") == Some("ada"), "{answer}");
    let cookies = super::header(&answer, "cookie").unwrap_or_default();
    ensure!(!cookies.contains("served=tossed"), "an application's Domain passed: {cookies}");
    Ok(())
}

/// Chromium takes one connection for both, because one certificate is for both: each request's own authority decides. A
/// change of this machine's interfaces, as by a start, makes it begin anew, so it may take a second look.
async fn one_connection_serves_both(
    browser: &mut Browser,
    both: &[(&Window, &Entry); 2],
) -> anyhow::Result<()> {
    let mut came_by = Vec::new();
    for try_number in 0..TRIES_MAX {
        came_by.clear();
        for (window, entry) in both {
            let path = format!("/page?try={try_number}");
            browser.navigate(window, &format!("{}{path}", entry.origin)).await?;
            shows(browser, window, &path).await?;
            let backend = verified(browser, window, "backend").await?;
            ensure!(backend.as_ref() == Some(&entry.backend), "{} reached {backend:?}", entry.origin);
            let url = format!("{}{path}", entry.origin);
            let answer = browser.answers.iter().find(|answer| answer.url == url).context(url)?;
            ensure!(answer.protocol == "h2" && answer.status == 200, "{answer:?}");
            came_by.push(answer.connection);
        }
        if came_by[0] == came_by[1] {
            return Ok(());
        }
    }
    anyhow::bail!("nothing was coalesced: {came_by:?}, {:?}", browser.answers)
}
