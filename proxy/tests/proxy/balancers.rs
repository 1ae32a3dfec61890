//! Balancers that others wrote, in front of the proxy: HAProxy and nginx, as their documentation
//! has it for WebSockets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::backends::{echo_socket, echoes, mirror, open_socket};
use crate::play::{Play, Stage};
use crate::raw::Raw;

const START_MAX: Duration = Duration::from_secs(10);
/// Where clients come from; balancers come from 127.0.0.1.
const CLIENT: &str = "127.0.0.5:0";

/// Ends with its drop.
struct Balancer {
    address: SocketAddr,
    directory: PathBuf,
    _process: Child,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.directory);
    }
}

impl Balancer {
    /// `settings`: the file, from where to listen and a directory of its own.
    async fn start(
        program: &str,
        arguments: &[&str],
        settings: impl Fn(SocketAddr, &str) -> String,
    ) -> Balancer {
        let directory =
            std::env::temp_dir().join(format!("jetway-balancer-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&directory).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let file = directory.join("conf");
        std::fs::write(&file, settings(address, directory.to_str().unwrap())).unwrap();
        let mut command = Command::new(format!("/usr/sbin/{program}"));
        command.args(arguments).arg(&file).kill_on_drop(true);
        let process = command
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; scripts/setup --test installs it"));
        let begun = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            assert!(begun.elapsed() < START_MAX, "{program} does not listen");
            sleep(Duration::from_millis(10)).await;
        }
        Balancer { address, directory, _process: process }
    }

    async fn haproxy(proxy: SocketAddr, mode: &str, server: &str) -> Balancer {
        Self::start("haproxy", &["-db", "-q", "-f"], |listen, _| {
            format!(
                "defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
                 listen all\n  bind {listen}\n  {}\n  server one {proxy} {server}\n",
                if mode == "http" { "option forwardfor" } else { "" }
            )
        })
        .await
    }

    async fn nginx(proxy: SocketAddr) -> Balancer {
        Self::start("nginx", &["-e", "stderr", "-c"], |listen, directory| {
            format!(
                "daemon off; master_process off; pid {directory}/pid; error_log stderr; events {{}}\n\
                 http {{ access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;\n\
                   fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n\
                   map $http_upgrade $connection_upgrade {{ default upgrade; \"\" close; }}\n\
                   server {{ listen {listen}; location / {{ proxy_pass http://{proxy}; proxy_http_version 1.1;\n\
                     proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;\n\
                     proxy_set_header X-Forwarded-Proto https; proxy_set_header Upgrade $http_upgrade;\n\
                     proxy_set_header Connection $connection_upgrade; }} }} }}\n"
            )
        })
        .await
    }
}

/// Pages and WebSockets come through, and the application is told of the client what the balancer
/// knows.
async fn carries(play: &Play, balancer: &Balancer, told: &[&str]) {
    let (address, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    for _ in 0..3 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(CLIENT.parse().unwrap()).unwrap();
        let stream = socket.connect(balancer.address).await.unwrap();
        let mut client = Raw { stream, buffer: Vec::new() };
        let answer = client.get(&format!("/{token}/page"), &["x-forwarded-for: 198.51.100.1"]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        for line in told {
            assert!(answer.body.contains(&format!("\r\n{line}\r\n")), "{line:?} in {}", answer.body);
        }
    }
    let (_, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let mut socket = open_socket(balancer.address, &token).await;
    for text in ["one", "two", "x".repeat(100_000).as_str()] {
        echoes(&mut socket, text).await;
    }
}

#[tokio::test]
async fn haproxy_speaks_http_in_front_of_it() {
    let play = Stage { trusted: &["127.0.0.1"], ..Stage::default() }.begin().await;
    let balancer = Balancer::haproxy(play.proxy.address, "http", "").await;
    // It adds a second field; the proxy makes one list of both, with the balancer's own address
    // last.
    carries(&play, &balancer, &["x-forwarded-for: 198.51.100.1, 127.0.0.5, 127.0.0.1"]).await;
}

#[tokio::test]
async fn haproxy_passes_bytes_on_with_either_version_of_the_proxy_protocol() {
    for version in ["send-proxy", "send-proxy-v2"] {
        let play = Stage { trusted: &["127.0.0.1"], proxy_protocol: true, ..Stage::default() }.begin().await;
        let balancer = Balancer::haproxy(play.proxy.address, "tcp", version).await;
        // What the client says of itself does not count.
        carries(&play, &balancer, &["x-forwarded-for: 127.0.0.5"]).await;
    }
}

#[tokio::test]
async fn nginx_speaks_http_in_front_of_it() {
    let play = Stage { trusted: &["127.0.0.1"], ..Stage::default() }.begin().await;
    let balancer = Balancer::nginx(play.proxy.address).await;
    carries(&play, &balancer, &["x-forwarded-for: 127.0.0.5, 127.0.0.1", "x-forwarded-proto: https"]).await;
}
