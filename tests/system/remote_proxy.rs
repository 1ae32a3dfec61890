//! A proxy on another host, played by a network namespace: it cannot dial containers, so the drone does it for it.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::{Elsewhere, Options, Role, Session, with_stack};

/// A namespace with one link to this host; gone with the value.
struct Namespace(Elsewhere);

impl Namespace {
    fn make() -> anyhow::Result<Self> {
        let id = std::process::id() % 0xffff;
        let (namespace, link) = (format!("jetway-test-{id}"), format!("jwt{id}"));
        let subnet = format!("10.254.{}", id % 250);
        let elsewhere = Elsewhere {
            namespace: namespace.clone(),
            here: format!("{subnet}.1"),
            there: format!("{subnet}.2"),
        };
        let made = Self(elsewhere);
        let peer = format!("{link}p");
        ip(&["netns", "add", &namespace])?;
        ip(&["link", "add", &link, "type", "veth", "peer", "name", &peer, "netns", &namespace])?;
        ip(&["addr", "add", &format!("{subnet}.1/30"), "dev", &link])?;
        ip(&["link", "set", &link, "up"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{subnet}.2/30"), "dev", &peer])?;
        ip(&["-n", &namespace, "link", "set", &peer, "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        Ok(made)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its end of the link goes with it, and with that the other end.
        let _gone = ip(&["netns", "delete", &self.0.namespace]);
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip (iproute2) is installed")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ip {}: {said} (this test makes a network namespace: run it as root)",
        arguments.join(" ")
    );
    Ok(())
}

#[test]
fn a_proxy_on_another_host_goes_through_the_drones_dial() {
    let namespace = Namespace::make().expect("a network namespace");
    let options = Options { elsewhere: Some(namespace.0.clone()), ..Options::default() };
    with_stack(options.with(Role::Controller, &["--insecure"]), async |stack| {
        let mut request =
            stack.request("far", &json!({ "SECOND_PORT": "9229" }), &json!({ "max_idle_seconds": 0 }));
        request["spawn_config"]["executable"]["ports"] = json!({ "debug": 9229 });
        let answer = stack.connect(&request).await?;
        let url = answer["url"].as_str().context("url")?;
        ensure!(url.contains(&namespace.0.there), "{url}");
        let mut session = Session::open(url).await?;
        session.echo("through the drone").await?;
        let second = stack.http.get(format!("{url}_port/debug/")).send().await?.text().await?;
        ensure!(second == "the second port", "{second}");
        let body = stack.http.get(format!("{url}download?bytes=16000000")).send().await?.bytes().await?;
        ensure!(body.len() == 16_000_000);
        let sent =
            stack.http.post(format!("{url}upload")).body(vec![b'x'; 8_000_000]).send().await?.text().await?;
        ensure!(sent == "8000000", "{sent}");
        let log = std::fs::read_to_string(stack.directory.join("Proxy.log"))?;
        ensure!(log.contains("direct=false"), "the proxy believes that it shares the drone's host:\n{log}");
        session.close().await?;
        let backend = answer["backend_id"].as_str().context("id")?;
        stack.ended(backend, std::time::Duration::from_secs(30)).await?;
        Ok(())
    });
}
