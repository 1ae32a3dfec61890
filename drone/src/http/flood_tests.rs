//! More visitors than there is room for.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

use jetway_protocol::drone_api::PORT_HEADER;
use jetway_protocol::ids::BackendId;
use jetway_protocol::spec::{Port, Protocol};
use jetway_protocol::status::Status;
use tokio::net::TcpListener;

use super::harness::Server;
use crate::harness::{eventually, put_of, reaches};
use crate::runtime::fake::Script;

#[tokio::test]
async fn too_many_tunnels_are_refused_and_controllers_served() {
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = application.local_addr().unwrap().port();
    let address = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (gate, server) = Server::not_open(Script { address, ..Script::default() }).await;
    gate.open(server.test.agent.clone());
    server.test.agent.strays.looked.store(true, Ordering::Release);
    let put = put_of(|spec| {
        spec.executable.ports.insert("debug".parse().unwrap(), Port { port, protocol: Protocol::Http1 });
        spec.executable.network_name = Some("other".into());
    });
    let reservation = server.test.agent.admission.admit(&put.spec.executable).unwrap();
    let id: BackendId = "b".parse().unwrap();
    let backend = crate::backend::begin::put(&server.test.agent, id.clone(), put, reservation, None).unwrap();
    reaches(&backend, Status::Ready).await;

    let to_its_port = format!("9\r\n{PORT_HEADER}: {port}");
    let taken: Vec<_> = std::iter::from_fn(|| gate.tunnels.enter(&id)).collect();
    let (_, answer) = server.dial("/b/b/dial", &to_its_port).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert_eq!(server.view("b").await.status, Status::Ready, "a controller is served");
    drop(taken);
    let (tunnel, answer) = server.dial("/b/b/dial", &to_its_port).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let room = || std::iter::from_fn(|| gate.tunnels.enter(&id)).collect::<Vec<_>>().len();
    let beside_it = room();
    drop((tunnel, application));
    eventually("it gives its place back", || room() > beside_it).await;
}
