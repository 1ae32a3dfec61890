//! Certificates on demand: for whatever host a client comes to, if the operator's hook allows it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::ensure;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::fleet::{Fleet, Plan, with_fleet};

const SOON: Duration = Duration::from_secs(25);

#[derive(Default)]
struct Says {
    allowed: HashSet<String>,
    asked: HashMap<String, usize>,
    is_away: bool,
}

pub struct Hook {
    says: Arc<Mutex<Says>>,
    url: String,
    task: JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hook {
    /// Before the fleet, whose controllers are told where it is.
    pub fn bind() -> anyhow::Result<(std::net::TcpListener, String)> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}/may-it", listener.local_addr()?);
        Ok((listener, url))
    }

    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    pub fn start(listener: std::net::TcpListener, url: String, allowed: &[&str]) -> anyhow::Result<Self> {
        let allowed = allowed.iter().map(|host| (*host).to_owned()).collect();
        let says = Arc::new(Mutex::new(Says { allowed, ..Says::default() }));
        let router = Router::new().route("/may-it", get(may_it)).with_state(says.clone());
        let listener = TcpListener::from_std(listener)?;
        let task = tokio::spawn(async move {
            let _ended = axum::serve(listener, router).await;
        });
        Ok(Self { says, url, task })
    }

    pub fn asked(&self, host: &str) -> usize {
        self.says.lock().expect("no panic").asked.get(host).copied().unwrap_or_default()
    }
}

async fn may_it(
    State(says): State<Arc<Mutex<Says>>>,
    Query(query): Query<HashMap<String, String>>,
) -> StatusCode {
    let host = query.get("domain").cloned().unwrap_or_default();
    let mut says = says.lock().expect("no panic");
    *says.asked.entry(host.clone()).or_default() += 1;
    match (says.is_away, says.allowed.contains(&host)) {
        (true, _) => StatusCode::SERVICE_UNAVAILABLE,
        (false, true) => StatusCode::OK,
        (false, false) => StatusCode::NOT_FOUND,
    }
}

fn with_hook<F>(allowed: &'static [&'static str], seconds: u64, test: F)
where
    F: AsyncFnOnce(&mut Fleet, &Hook) -> anyhow::Result<()>,
{
    let (listener, url) = Hook::bind().expect("a port");
    let plan = Plan::new(&["--acme-ask-url", &url]);
    with_fleet(Plan { seconds, ..plan }, async |fleet| {
        let hook = Hook::start(listener, url, allowed)?;
        ensure!(hook.url.contains("/may-it"));
        test(fleet, &hook).await
    });
}

#[test]
fn the_first_visit_to_an_allowed_host_waits_for_its_certificate() {
    with_hook(&["shop.example"], 90 * 86_400, async |fleet, hook| {
        let port = fleet.proxies[0].tls_port;
        let begun = Instant::now();
        let together = (0..20).map(|_| fleet.issuer.visit(port, "Shop.example"));
        let shown = join_all(together).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        println!("figure: the first visits on demand, order and all: {} ms", begun.elapsed().as_millis());
        let begun = Instant::now();
        fleet.issuer.visit(port, "shop.example").await?;
        println!("figure: one more visit: {} ms", begun.elapsed().as_millis());
        ensure!(shown.windows(2).all(|two| two[0] == two[1]), "they were shown different ones");
        ensure!(hook.asked("shop.example") == 1, "the hook was asked {} times", hook.asked("shop.example"));
        ensure!(fleet.issuer.orders()? == 1);

        for _ in 0..3 {
            let begun = Instant::now();
            ensure!(fleet.issuer.visit(port, "evil.example").await.is_err(), "nobody allowed it");
            ensure!(begun.elapsed() < Duration::from_secs(5), "a no took {:?}", begun.elapsed());
        }
        ensure!(hook.asked("evil.example") == 1, "the hook was asked {} times", hook.asked("evil.example"));
        ensure!(fleet.certificates().await?.len() == 1, "{:?}", fleet.certificates().await?);
        ensure!(fleet.issuer.orders()? == 1);

        // Known hosts are served without a controller.
        fleet.stop_controller(0, nix::sys::signal::Signal::SIGKILL).await?;
        fleet.issuer.visit(port, "shop.example").await?;
        Ok(())
    });
}

#[test]
fn a_hook_that_is_away_allows_nothing_and_is_asked_again() {
    with_hook(&["shop.example"], 90 * 86_400, async |fleet, hook| {
        let port = fleet.proxies[0].tls_port;
        hook.says.lock().expect("no panic").is_away = true;
        ensure!(fleet.issuer.visit(port, "shop.example").await.is_err(), "the hook was away");
        ensure!(fleet.certificates().await?.is_empty());
        hook.says.lock().expect("no panic").is_away = false;
        fleet.issuer.visited(port, "shop.example", SOON).await?;
        Ok(())
    });
}

#[test]
fn a_host_that_is_not_allowed_any_more_is_not_renewed() {
    with_hook(&["left.example"], 24, async |fleet, hook| {
        let port = fleet.proxies[0].tls_port;
        fleet.issuer.visited(port, "left.example", SOON).await?;
        hook.says.lock().expect("no panic").allowed.clear();
        let one = fleet.until("left.example", SOON, |one| one["next_order_at"].is_null()).await?;
        ensure!(one["version"] == 1 && one["state"] == "renewal_failing", "{one}");
        ensure!(one["problem"].as_str().is_some_and(|said| said.contains("not allow")), "{one}");
        fleet.issuer.visit(port, "left.example").await?;
        ensure!(fleet.issuer.orders()? == 1);

        // It comes back: whoever asks for it then has it ordered.
        hook.says.lock().expect("no panic").allowed.insert("left.example".into());
        fleet.until("left.example", SOON, |one| one["expires_at"].as_i64().is_some_and(is_over)).await?;
        fleet.issuer.visited(port, "left.example", SOON).await?;
        ensure!(fleet.certificate("left.example").await?["version"] == 2);
        Ok(())
    });
}

/// Clients count in seconds.
fn is_over(at: i64) -> bool {
    at + 1500 < jetway_protocol::time::UnixMicros::now().millis()
}
