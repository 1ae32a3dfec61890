//! Who can reach whom: sessions, the host, networks that were allowed. Not its business: the proxy's way in.

use std::sync::Arc;

use bollard::models::NetworkCreateRequest;
use jetway_drone::runtime::docker::guard::{Guard, Means};
use jetway_drone::runtime::docker::{
    ConnectError, DockerConfig, DockerRuntime, GuardStatus, guard_helper, names, nft,
};
use jetway_drone::runtime::{Runtime, RuntimeError};
use jetway_protocol::ids::{DroneId, InstallationId};
use jetway_service::lifecycle::Lifecycle;

use crate::support::{Bed, built, on_docker, until_ready};

#[tokio::test]
async fn sessions_reach_neither_the_host_nor_each_other_and_the_host_reaches_them() {
    on_docker(
        |_| (),
        |bed| async move {
            assert_eq!(bed.runtime.guard_status(), &GuardStatus::Closed(Means::Netlink));
            assert_eq!(bed.runtime.warnings(), Vec::<String>::new());
            let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let gateway = bed.runtime.subnet().gateway;
            let on_host = tokio::net::TcpStream::connect((gateway, port)).await;
            assert!(on_host.is_ok(), "the host itself can");
            let mut server = bed.run(bed.request(&["serve"])).await;
            until_ready(&mut server.line).await;
            assert!(tokio::net::TcpStream::connect((server.address, 8080)).await.is_ok());
            let [default_bridge, outward] = other_host_addresses(&bed).await;
            let targets = [
                format!("{gateway}:{port}"),
                format!("{default_bridge}:{port}"),
                format!("{outward}:{port}"),
                format!("{}:8080", server.address),
            ];
            let mut request = bed.request(&["connect"]);
            request.executable.cmd.as_mut().unwrap().extend(targets.iter().cloned());
            let output = bed.output_of(request).await;
            for target in &targets {
                assert!(output.contains(&format!("{target} closed: TimedOut")), "{output}");
            }
        },
    )
    .await;
}

/// The host on Docker's default bridge, and where its default route begins.
async fn other_host_addresses(bed: &Bed) -> [String; 2] {
    let bridge = bed.engine.get("/networks/bridge", &[]).await.unwrap();
    let subnet =
        bridge["IPAM"]["Config"][0]["Subnet"].as_str().unwrap().split('/').next().unwrap().to_owned();
    let first = u32::from(subnet.parse::<std::net::Ipv4Addr>().unwrap()) + 1;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let outward = match socket.connect("203.0.113.1:9") {
        Ok(()) => socket.local_addr().unwrap().ip().to_string(),
        Err(_) => std::net::Ipv4Addr::from(first).to_string(),
    };
    [std::net::Ipv4Addr::from(first).to_string(), outward]
}

#[tokio::test]
async fn a_network_must_be_allowed() {
    on_docker(
        |config| config.allowed_networks = vec![names::network(config.drone) + "-other", "host".to_owned()],
        |bed| async move {
            let name = bed.config.allowed_networks[0].clone();
            for bad in ["host", "none", "bridge", "container:x", "unknown"] {
                let mut request = bed.request(&["serve"]);
                request.image = bed.runtime.ensure_image(&request.executable).await.unwrap();
                request.executable.network_name = Some(bad.to_owned());
                let error = bed.runtime.create(&request).await.unwrap_err();
                assert!(matches!(error, RuntimeError::NotOffered(_)), "{bad}: {error}");
            }
            let docker = bed.engine.docker();
            let network = NetworkCreateRequest { name: name.clone(), ..NetworkCreateRequest::default() };
            docker.create_network(network).await.unwrap();
            let mut request = bed.request(&["serve"]);
            request.executable.network_name = Some(name.clone());
            let own = bed.runtime.subnet();
            let mut parked = bed.run(request).await;
            assert_ne!(u32::from(parked.address) >> 14, u32::from(own.network) >> 14);
            until_ready(&mut parked.line).await;
            bed.runtime.remove(parked.slot).await.unwrap();
            docker.remove_network(&name).await.unwrap();
        },
    )
    .await;
}

/// On a network whose containers may talk, as with an engine that has `"iptables": false`: only our
/// rule is in the way.
#[tokio::test]
async fn our_own_table_keeps_sessions_apart() {
    on_docker(
        |config| config.allowed_networks = vec![names::network(config.drone) + "-open"],
        |bed| async move {
            let name = bed.config.allowed_networks[0].clone();
            let unique = bed.config.drone.to_string();
            let (bridge, table) = (format!("jwo-{}", &unique[..8]), format!("jetway_open_{}", &unique[..8]));
            let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let options = [
                option("com.docker.network.bridge.name", &bridge),
                option("com.docker.network.bridge.enable_icc", "true"),
            ];
            let docker = bed.engine.docker();
            let network = NetworkCreateRequest {
                name: name.clone(),
                options: Some(options.into()),
                ..NetworkCreateRequest::default()
            };
            docker.create_network(network).await.unwrap();
            let on_it = |args: &[&str]| {
                let mut request = bed.request(args);
                request.executable.network_name = Some(name.clone());
                request
            };
            let mut server = bed.run(on_it(&["serve"])).await;
            until_ready(&mut server.line).await;
            let target = format!("{}:8080", server.address);
            let before = bed.output_of(on_it(&["connect", &target])).await;
            assert!(before.contains(&format!("{target} open")), "{before}");
            nft::apply(&table, &bridge).unwrap();
            let after = bed.output_of(on_it(&["connect", &target])).await;
            nft::remove(&table).unwrap();
            assert!(after.contains(&format!("{target} closed: TimedOut")), "{after}");
            for found in bed.runtime.list().await.unwrap() {
                bed.runtime.remove(found.slot).await.unwrap();
            }
            docker.remove_network(&name).await.unwrap();
        },
    )
    .await;
}

#[tokio::test]
async fn the_operators_subnet_is_used_or_refused_with_a_reason() {
    let (installation, drone) = (InstallationId::random(), DroneId::random());
    let root = std::path::PathBuf::from(format!("/tmp/jw-{}", &drone.to_string()[..8]));
    let lifecycle = Lifecycle::new();
    let attempt = |subnet: &str| {
        let (address, prefix) = subnet.split_once('/').unwrap();
        let mut config =
            DockerConfig::new(installation, drone, root.join("data"), root.join("run"), built("jetway-init"));
        config.session_subnet = Some((address.parse().unwrap(), prefix.parse().unwrap()));
        DockerRuntime::connect(config, &lifecycle)
    };
    for (subnet, sign) in
        [("127.0.0.0/16", "overlaps"), ("10.64.0.1/18", "write 10.64.0.0/18"), ("10.64.0.0/31", "prefix")]
    {
        let error = attempt(subnet).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, ConnectError::Network(_)) && error.to_string().contains(sign), "{error}");
    }
    let first = attempt("10.200.16.0/24").await.unwrap();
    assert_eq!(first.subnet().gateway.to_string(), "10.200.16.1");
    // Empty, and so exchanged for the one that is wanted now.
    let second = attempt("10.200.17.0/24").await.unwrap();
    assert_eq!(second.subnet().network.to_string(), "10.200.17.0");
    assert_ne!(second.network().id, first.network().id);
    second.remove_network().await.unwrap();
    second.remove_network().await.unwrap();
    assert!(lifecycle.stop().await);
    std::fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn a_network_with_containers_is_not_removed() {
    on_docker(
        |_| (),
        |bed| async move {
            let parked = bed.park(bed.request(&["serve"])).await;
            let error = bed.runtime.remove_network().await.unwrap_err();
            assert!(error.to_string().contains("1 of this drone's containers"), "{error}");
            let table = names::firewall_table(bed.config.drone);
            assert!(nft::is_present(&table).unwrap(), "still closed");
            bed.runtime.remove(parked.slot).await.unwrap();
        },
    )
    .await;
}

#[tokio::test]
async fn a_helper_container_can_close_the_ports_too() {
    on_docker(
        |_| (),
        |bed| async move {
            let guard = Guard::of(&bed.config);
            let table = guard.table.clone();
            let mut config = bed.config.clone();
            config.helper_image = None;
            let without = guard_helper::run(&bed.engine, &config, &guard, "close").await.unwrap_err();
            assert!(without.contains("no helper image"), "{without}");
            config.helper_image = Some(bed.image.clone());
            guard_helper::run(&bed.engine, &config, &guard, "open").await.unwrap();
            assert!(!nft::is_present(&table).unwrap());
            guard_helper::run(&bed.engine, &config, &guard, "close").await.unwrap();
            assert!(nft::is_present(&table).unwrap());
            let odd = guard_helper::run(&bed.engine, &config, &guard, "nonsense").await.unwrap_err();
            assert!(odd.contains("ended with 1"), "{odd}");
        },
    )
    .await;
}

#[tokio::test]
async fn drones_of_one_host_have_networks_of_their_own() {
    on_docker(
        |_| (),
        |one| async move {
            let one = Arc::clone(&one);
            on_docker(
                |_| (),
                |other| async move {
                    assert_ne!(one.runtime.subnet(), other.runtime.subnet());
                    let mut server = one.run(one.request(&["serve"])).await;
                    until_ready(&mut server.line).await;
                    let target = format!("{}:8080", server.address);
                    let output = other.output_of(other.request(&["connect", &target])).await;
                    assert!(output.contains(&format!("{target} closed")), "{output}");
                    assert_eq!(other.runtime.list().await.unwrap().len(), 1);
                },
            )
            .await;
        },
    )
    .await;
}
