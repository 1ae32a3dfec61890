//! Sessions at hosts of their own with ordered certificates, in a browser that trusts the issuer and nothing else: one
//! wildcard for the cluster, shown by the DNS, and a customer's own domain on demand, if the operator's hook allows it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::demand::Hook;
use super::issuer::{Issuer, Settings, start_dns};
use crate::harness::browser::Browser;
use crate::harness::cluster::{CLUSTER, Cluster, public_key};
use crate::harness::processes::{Process, free_port};
use crate::harness::{Options, Role, Stack, block_on, eventually, over_stack};
use crate::host_form::web_app::{self, WebApp};
use crate::host_form::{Entry, enter, no_token, request, shows, verified};

const SOON: Duration = Duration::from_secs(25);
/// A customer's, below no cluster.
const CUSTOMERS: &str = "doc.customer.example";
/// In the DNS' own form, with its length before it.
const SHOWS_CONTROL: &[u8] = b"\x0f_acme-challenge";
const ANSWER_BYTES: usize = 4096;

/// What the issuer asks: the proxy about what shows control, and for every other name it is this machine.
struct Names {
    port: u16,
    task: JoinHandle<()>,
    _fixed: Process,
}

impl Drop for Names {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Names {
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    async fn start(directory: &std::path::Path, proxy: u16) -> anyhow::Result<Self> {
        let (fixed, process) = start_dns(directory)?;
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let port = socket.local_addr()?.port();
        let task = tokio::spawn(async move {
            let mut question = [0; ANSWER_BYTES];
            while let Ok((bytes, asker)) = socket.recv_from(&mut question).await {
                let question = &question[..bytes];
                let is_shown = question.windows(SHOWS_CONTROL.len()).any(|part| part == SHOWS_CONTROL);
                if let Ok(answer) = asked(question, if is_shown { proxy } else { fixed }).await {
                    let _asker_is_gone = socket.send_to(&answer, asker).await;
                }
            }
        });
        Ok(Self { port, task, _fixed: process })
    }
}

async fn asked(question: &[u8], port: u16) -> anyhow::Result<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(("127.0.0.1", port)).await?;
    socket.send(question).await?;
    let mut answer = vec![0; ANSWER_BYTES];
    let bytes = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut answer)).await??;
    answer.truncate(bytes);
    Ok(answer)
}

#[test]
fn hosts_of_sessions_have_ordered_certificates() {
    block_on(async {
        let cluster = Cluster::prepare().expect("a cluster");
        let dns = free_port().expect("a port");
        let names = Names::start(&cluster.directory, dns).await.expect("a DNS");
        let settings = Settings {
            seconds: 90 * 86_400,
            binding: None,
            http_port: free_port().expect("a port"),
            tls_port: cluster.tls_port,
            dns_port: Some(names.port),
        };
        let mut issuer = Issuer::start(&cluster.directory, settings).await.expect("an issuer");
        let (listener, url) = Hook::bind().expect("a port");
        let hook = Hook::start(listener, url.clone(), &[CUSTOMERS]).expect("a hook");
        let options = options(&cluster, &issuer, &url, dns);
        over_stack(options, async |stack| served(stack, &cluster, &issuer, &hook).await).await;
        issuer.end().await.expect("the issuer ends");
    });
}

fn options(cluster: &Cluster, issuer: &Issuer, hook: &str, dns: u16) -> Options {
    let (directory, ca) = (issuer.directory_url(), issuer.ca().display().to_string());
    let wildcard = format!("{CLUSTER}+*.{CLUSTER}");
    let controller = [
        ["--acme-directory", &directory],
        ["--acme-ca-certificate", &ca],
        ["--acme-certificate", &wildcard],
        ["--acme-ask-url", hook],
        // For domains on demand; a wildcard is always shown by the DNS.
        ["--acme-challenge", "tls-alpn-01"],
    ];
    let dns = format!("127.0.0.1:{dns}");
    cluster
        .options()
        .with(Role::Controller, &["--acme-agree-terms"])
        .with(Role::Controller, controller.as_flattened())
        .with(Role::Proxy, &["--tls-acme", "--acme-dns-listen", &dns])
}

async fn served(stack: &mut Stack, cluster: &Cluster, issuer: &Issuer, hook: &Hook) -> anyhow::Result<()> {
    eventually("the wildcard is there", SOON, async || {
        let all = stack.get("/ctrl/certificates").await.map_err(|error| error.to_string())?;
        if all["certificates"][0]["state"] == "valid" { Ok(()) } else { Err(all.to_string()) }
    })
    .await?;
    let web_app = WebApp::start(stack).await?;
    let trusted = public_key(&issuer.intermediate().await?)?;
    let others = [(web_app::HOST, web_app.port), (CUSTOMERS, cluster.tls_port)];
    let mut browser = cluster.browser(&trusted, &others).await?;

    let mut asked = request(stack, "doc", "ada", &json!({}));
    web_app.offers(&asked)?;
    (asked["hosts"], asked["return_url"]) = (json!([CUSTOMERS]), json!(WebApp::url("doc")));
    let entry = Entry::connect(stack, &asked).await?;
    let window = browser.open("about:blank").await?;
    enter(&mut browser, &window, &entry.to("/page")).await.context("by the wildcard")?;
    no_token(&mut browser, &window).await?;
    ensure!(issuer.orders()? == 1, "nobody has come to the customer's domain");

    at_the_customers(&mut browser, &entry).await?;
    ensure!(issuer.orders()? == 2, "{} orders", issuer.orders()?);
    refused(stack, &asked, hook).await?;

    // There too, the end leads to the web app.
    stack.post(&format!("/ctrl/b/{}/hard-terminate", entry.backend), &Value::Null).await?;
    stack.ended(&entry.backend, SOON).await?;
    browser.navigate(&window, &format!("https://{CUSTOMERS}/page?late")).await?;
    shows(&mut browser, &window, "/page?late").await?;
    let returned = web_app.last_return("doc")?;
    ensure!(returned.field("jetway_reason").as_deref() == Some("ended"), "{returned:?}");
    browser.end().await
}

/// The first visit waits for the certificate. The cookie of the session's other host is not this one's.
async fn at_the_customers(browser: &mut Browser, entry: &Entry) -> anyhow::Result<()> {
    let url = entry.answer["urls"][CUSTOMERS].as_str().with_context(|| entry.answer.to_string())?;
    ensure!(url.starts_with(&format!("https://{CUSTOMERS}/.jetway/enter?token=")), "{url}");
    let window = browser.open("about:blank").await?;
    let begun = Instant::now();
    enter(browser, &window, &format!("{url}&path=%2Fpage")).await.context("on demand")?;
    println!(
        "figure: the first page of a custom domain, its certificate and all: {} ms",
        begun.elapsed().as_millis()
    );
    let origin = browser.evaluate(&window, "location.origin").await?;
    ensure!(origin == format!("https://{CUSTOMERS}"), "{origin}");
    ensure!(verified(browser, &window, "username").await?.as_deref() == Some("ada"));
    no_token(browser, &window).await?;
    browser.close(window).await
}

/// A domain that the hook does not allow, and one that is another key's.
async fn refused(stack: &Stack, asked: &Value, hook: &Hook) -> anyhow::Result<()> {
    let mut evil = asked.clone();
    (evil["key"]["name"], evil["hosts"]) = (json!("evil"), json!(["evil.example"]));
    let (status, said) = stack.post("/ctrl/connect", &evil).await?;
    ensure!((400..500).contains(&status), "{status}: {said}");
    ensure!(hook.asked("evil.example") > 0, "it was not asked");
    let mut other = asked.clone();
    other["key"]["name"] = json!("other");
    let (status, said) = stack.post("/ctrl/connect", &other).await?;
    ensure!(status == 409 && said["code"] == "host_taken", "{status}: {said}");
    Ok(())
}
