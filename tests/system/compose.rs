//! docker-compose.yml as a team meets it: the example app in a real browser, every service restarted under an open
//! WebSocket, the second drone and proxy, a proxy without the host's network, and everything taken down.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use jetway_testkit::eventually::SOON;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::browser::Browser;
use crate::harness::compose::Compose;
use crate::harness::{Place, Session, eventually};

/// From `up` to the first echo, with images present, on a machine that is busy with other tests.
const UP_MAX: Duration = Duration::from_secs(120);

/// A visitor of the example app, without a browser.
struct Visitor {
    http: reqwest::Client,
    web: String,
    cookie: String,
}

impl Visitor {
    async fn sign_in(web: &str, name: &str) -> anyhow::Result<Self> {
        let http =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build()?;
        let response = http
            .post(format!("{web}/sign-in"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("name={name}"))
            .send()
            .await?;
        let cookie = response.headers().get("set-cookie").context("a cookie")?.to_str()?;
        let cookie = cookie.split(';').next().context("a cookie")?.to_owned();
        Ok(Self { http, web: web.to_owned(), cookie })
    }

    /// The room's host, which this visitor has entered.
    async fn place(&self, room: &str) -> anyhow::Result<Place> {
        let request = self.http.get(format!("{}/rooms/{room}", self.web)).header("cookie", &self.cookie);
        let response = request.timeout(SOON).send().await?;
        let (status, headers, body) = (response.status(), response.headers().clone(), response.text().await?);
        ensure!(status == 303, "{status}: {body}");
        Place::enter(&self.http, headers.get("location").context("a URL")?.to_str()?).await
    }

    async fn enter(&self, room: &str) -> anyhow::Result<Session> {
        opened(&self.place(room).await?).await
    }
}

/// As the page does: what closes or is refused is tried again, and said.
async fn opened(place: &Place) -> anyhow::Result<Session> {
    eventually("the WebSocket opens", SOON, async || {
        let opened = place.open().await.map_err(|error| format!("{error:#}"));
        opened.inspect_err(|error| println!("not yet: {error}"))
    })
    .await
}

/// Says something in the room and hears it.
async fn hears_itself(session: &mut Session, words: &str) -> anyhow::Result<()> {
    session.socket.send(Message::text(words)).await?;
    let heard = async {
        while let Some(message) = session.socket.next().await {
            let Message::Text(text) = message? else { continue };
            if serde_json::from_str::<Value>(&text)?["text"] == words {
                return Ok(());
            }
        }
        bail!("the connection ended")
    };
    tokio::time::timeout(SOON, heard).await.with_context(|| format!("hearing {words:?}"))?
}

fn run(body: impl AsyncFnOnce(&mut Compose) -> anyhow::Result<()>) {
    jetway_service::client::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut compose = Compose::prepare().expect("the images");
    if let Err(error) = runtime.block_on(body(&mut compose)) {
        let logs = compose.logs();
        drop(compose);
        panic!("{error:#}\n{logs}");
    }
    if let Err(error) = compose.end() {
        panic!("{error:#}");
    }
}

/// Brings the stack up, and returns the first visitor, who has heard itself.
async fn up(compose: &Compose) -> anyhow::Result<Visitor> {
    let start = Instant::now();
    compose.run(&["up", "-d"])?;
    println!("up: {} ms", start.elapsed().as_millis());
    let visitor = eventually("the web app answers", UP_MAX, async || {
        Visitor::sign_in(&compose.web, "first").await.map_err(|error| error.to_string())
    })
    .await?;
    let mut session = eventually("the first WebSocket opens", UP_MAX, async || {
        visitor.enter("first").await.map_err(|error| format!("{error:#}"))
    })
    .await?;
    hears_itself(&mut session, "hello").await?;
    println!("up to the first echo: {} ms", start.elapsed().as_millis());
    session.close().await?;
    Ok(visitor)
}

/// Two people, each with cookies of their own, in one room of the example's page. The container goes with the last one,
/// and the room's address leads one of them back.
async fn two_people_meet(compose: &Compose) -> anyhow::Result<()> {
    let directory = std::env::temp_dir().join(&compose.project);
    std::fs::create_dir_all(&directory)?;
    let mut browser = Browser::start(&directory).await?;
    let mut windows = Vec::new();
    for name in ["Ada", "Bob"] {
        let window = browser.open_as_another(&compose.web).await?;
        browser.until(&window, "document.querySelector('.door').offsetParent !== null").await?;
        let sign_in = format!(
            "document.querySelector('[name=name]').value = '{name}'; document.querySelector('.door').submit()"
        );
        browser.evaluate(&window, &sign_in).await?;
        browser
            .until(&window, &format!("document.querySelector('#state')?.textContent === 'you are {name}'"))
            .await?;
        windows.push(window);
    }
    browser.until(&windows[0], "document.querySelector('#here').textContent === '2 here: Ada, Bob'").await?;
    let say = "document.querySelector('#text').value = 'good morning'; document.querySelector('#say').requestSubmit()";
    browser.evaluate(&windows[0], say).await?;
    browser.until(&windows[1], "document.querySelector('#said').innerText.includes('good morning')").await?;
    if let Some(path) = std::env::var_os("JETWAY_TEST_SCREENSHOTS") {
        std::fs::write(
            std::path::Path::new(&path).join("compose.png"),
            browser.screenshot(&windows[1]).await?,
        )?;
    }
    // The address of the room stays: after its end it leads by way of the web app to the next session.
    let (ada, bob) = (windows.swap_remove(0), windows.swap_remove(0));
    let address = browser.evaluate(&ada, "location.href").await?;
    let address = address.as_str().context("an address")?;
    ensure!(address.contains(".localhost:") && address.ends_with('/'), "{address}");
    browser.close(bob).await?;
    browser.navigate(&ada, "about:blank").await?;
    nobody_is_left(compose).await?;
    browser.navigate(&ada, address).await?;
    browser.until(&ada, "document.querySelector('#state')?.textContent === 'you are Ada'").await?;
    ensure!(browser.evaluate(&ada, "location.href").await? == address, "another address");
    browser.end().await?;
    std::fs::remove_dir_all(&directory)?;
    nobody_is_left(compose).await
}

/// Every room has gone after its last visitor.
async fn nobody_is_left(compose: &Compose) -> anyhow::Result<()> {
    eventually("the sessions' containers go", Duration::from_secs(60), async || {
        let live = compose.jetway(&["ls", "--json"]).map_err(|error| error.to_string())?;
        let live: Value = serde_json::from_str(&live).map_err(|error| error.to_string())?;
        if live["backends"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(live.to_string()) }
    })
    .await
}

/// Restarts each service under an open WebSocket, and says what it did to it.
async fn restarts(compose: &Compose, visitor: &Visitor) -> anyhow::Result<()> {
    let place = visitor.place("steady").await?;
    let mut session = opened(&place).await?;
    let first = backend(compose, "steady").await?;
    for service in ["web", "controller-1", "controller-2", "postgres", "proxy", "drone"] {
        hears_itself(&mut session, "before").await?;
        let took = compose.restart(service).await?;
        let survived = hears_itself(&mut session, service).await.is_ok();
        println!(
            "restart of {service}: {} ms, the open WebSocket {}",
            took.as_millis(),
            if survived { "lived on" } else { "closed" }
        );
        ensure!(survived == (service != "proxy"), "the WebSocket after a restart of {service}");
        if !survived {
            // The page does the same: what it has of the room is still good.
            session = opened(&place).await?;
        }
        // A new visitor finds the same process, whatever has just come back.
        let mut another = eventually("a new visitor enters", SOON, async || {
            visitor.enter("steady").await.map_err(|error| format!("{error:#}"))
        })
        .await?;
        hears_itself(&mut another, "another").await?;
        another.close().await?;
        ensure!(backend(compose, "steady").await? == first, "another process after a restart of {service}");
    }
    session.close().await
}

/// The id of the room's live backend. Right after a restart of Postgres, a controller may say "try again" once.
async fn backend(compose: &Compose, room: &str) -> anyhow::Result<String> {
    eventually("a controller knows the room", SOON, async || {
        let status = compose
            .jetway(&["status", room, "--namespace", "rooms", "--json"])
            .map_err(|error| error.to_string())?;
        let status: Value = serde_json::from_str(&status).map_err(|error| error.to_string())?;
        status["backend_id"].as_str().map(str::to_owned).ok_or(status.to_string())
    })
    .await
}

/// With the profile `second`, another drone takes what the first may not, and another proxy serves all of it.
async fn the_second_ones(compose: &Compose, visitor: &Visitor) -> anyhow::Result<()> {
    let on_one = visitor.place("on-one").await?;
    // Open all the while, so that it does not end for want of visitors.
    let first_of_all = opened(&on_one).await?;
    compose.run(&["--profile", "second", "up", "-d"])?;
    compose.until_healthy("drone-2").await?;
    compose.until_healthy("proxy-2").await?;
    compose.jetway(&["drain", "one"])?;
    let on_two = visitor.place("on-two").await?;
    for (place, drone) in [(&on_one, "one"), (&on_two, "two")] {
        let mut session = opened(&place.at(compose.proxy_2)).await.context(drone)?;
        hears_itself(&mut session, drone).await?;
        let mut by_the_first = opened(place).await?;
        hears_itself(&mut by_the_first, drone).await?;
        let room = format!("on-{drone}");
        let status = compose.jetway(&["status", &room, "--namespace", "rooms", "--json"])?;
        ensure!(serde_json::from_str::<Value>(&status)?["drone"] == drone, "{status}");
        session.close().await?;
        by_the_first.close().await?;
    }
    first_of_all.close().await?;
    compose.jetway(&["drain", "one", "--undo"]).map(drop)
}

/// Without the host's network, the proxy reaches sessions through their drone.
async fn the_desktop_way(compose: &mut Compose, visitor: &Visitor) -> anyhow::Result<()> {
    let place = visitor.place("desktop").await?;
    compose.set("COMPOSE_PROFILES", "desktop");
    compose.set("HOST_PROXIES", "0");
    compose.run(&["up", "-d", "--scale", "proxy=0"])?;
    compose.until_healthy("proxy-desktop").await?;
    let mut session = eventually("the other proxy serves the same host", SOON, async || {
        place.open().await.map_err(|error| format!("{error:#}"))
    })
    .await?;
    hears_itself(&mut session, "through the drone").await?;
    session.close().await
}

#[test]
fn the_stack_serves_survives_and_goes() {
    run(async |compose| {
        let visitor = up(compose).await?;
        two_people_meet(compose).await?;
        restarts(compose, &visitor).await?;
        the_second_ones(compose, &visitor).await?;
        the_desktop_way(compose, &visitor).await?;
        println!("{}", compose.jetway(&["stop", "--all"])?.trim());
        nobody_is_left(compose).await
    });
}
