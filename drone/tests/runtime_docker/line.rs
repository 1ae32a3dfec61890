//! Park, claim, ready: the real init in a real container, on the drone's line. Not its business: init's own rules.

use std::sync::Arc;

use jetway_drone::runtime::docker::DockerRuntime;
use jetway_drone::runtime::{ContainerStatus, LineEvent, Runtime};
use jetway_protocol::init::{Ahead, FromInit, ToInit};
use jetway_service::lifecycle::Lifecycle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Bed, event, on_docker, session, until_ready};

async fn greet(address: std::net::SocketAddr) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"you").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_parked_container_is_claimed_serves_and_stops() {
    on_docker(
        |_| (),
        |bed| async move {
            let mut parked = bed.run(bed.request(&["serve"])).await;
            until_ready(&mut parked.line).await;
            assert_eq!(greet((parked.address, 8080).into()).await, "hello you");
            parked.line.commands.send(ToInit::Stop { signal: 15, grace_ms: 5000 }).await.unwrap();
            let (code, oom_killed) = bed.ended(parked.slot).await;
            assert_eq!((code, oom_killed), (143, false));
        },
    )
    .await;
}

#[tokio::test]
async fn a_parked_container_runs_nothing() {
    on_docker(
        |_| (),
        |bed| async move {
            let parked = bed.park(bed.request(&["exit", "0"])).await;
            let status = bed.runtime.inspect(parked.slot).await.unwrap();
            assert!(matches!(status, ContainerStatus::Running { paused: false, .. }), "{status:?}");
            assert_eq!(bed.runtime.output_tail(parked.slot, 100).await.unwrap(), "");
        },
    )
    .await;
}

#[tokio::test]
async fn an_agent_that_restarts_finds_its_network_its_containers_and_their_inits() {
    on_docker(
        |_| (),
        |bed| async move {
            let request = bed.request(&["serve"]);
            let backend = request.backend.clone().unwrap();
            let mut parked = bed.run(request).await;
            until_ready(&mut parked.line).await;
            let (nonce, slot) = (parked.nonce.clone(), parked.slot);
            drop(parked);
            let lifecycle = Lifecycle::new();
            let second = Arc::new(DockerRuntime::connect(bed.config.clone(), &lifecycle).await.unwrap());
            assert_eq!(second.network().id, bed.runtime.network().id);
            let listed = second.list().await.unwrap();
            assert_eq!(listed.len(), 1);
            assert_eq!(listed[0].backend.as_ref(), Some(&backend));
            let mut line = second.open_line_of(slot, Some(nonce)).await.unwrap();
            match event(&mut line).await {
                LineEvent::Connected(hello) => assert_eq!(hello.session.unwrap().backend, backend),
                other => panic!("{other:?}"),
            }
            assert!(second.start(slot).await.is_ok(), "it runs already");
            second.kill(slot, 9).await.unwrap();
            bed.ended(slot).await;
            assert!(second.start(slot).await.is_err(), "it has run");
            assert!(lifecycle.stop().await);
        },
    )
    .await;
}

#[tokio::test]
async fn a_session_is_given_once() {
    on_docker(
        |_| (),
        |bed| async move {
            let bed: Arc<Bed> = bed;
            let mut parked = bed.run(bed.request(&["serve"])).await;
            until_ready(&mut parked.line).await;
            let other = session(&"other".parse().unwrap(), parked.address);
            parked.line.commands.send(ToInit::Session(Box::new(other))).await.unwrap();
            match event(&mut parked.line).await {
                LineEvent::Message(FromInit::Refused { backend, .. }) => {
                    assert_eq!(backend.as_str(), "other")
                }
                other => panic!("{other:?}"),
            }
        },
    )
    .await;
}

#[tokio::test]
async fn an_application_that_runs_ahead_is_bound_to_its_session_at_once() {
    on_docker(
        |_| (),
        |bed| async move {
            let request = bed.request(&["serve"]);
            let backend = request.backend.clone().unwrap();
            let mut hot = bed.park(request).await;
            let env = [("PORT".to_owned(), "8080".to_owned())].into();
            let ahead = Ahead { env, port: 8080, addresses: vec![hot.address.into()] };
            hot.line.commands.send(ToInit::Ahead(Box::new(ahead))).await.unwrap();
            let LineEvent::Message(FromInit::AheadStarted { pid }) = event(&mut hot.line).await else {
                panic!("it was to be started")
            };
            let ready = event(&mut hot.line).await;
            assert!(matches!(ready, LineEvent::Message(FromInit::AheadReady { .. })), "{ready:?}");
            assert_eq!(greet((hot.address, 8080).into()).await, "hello you", "before any session");

            let asked = std::time::Instant::now();
            let session = session(&backend, hot.address);
            hot.line.commands.send(ToInit::Session(Box::new(session))).await.unwrap();
            let taken = FromInit::Taken { backend: backend.clone() };
            assert_eq!(event(&mut hot.line).await, LineEvent::Message(taken));
            let started = FromInit::Started { backend: backend.clone(), pid };
            assert_eq!(event(&mut hot.line).await, LineEvent::Message(started), "the same process");
            until_ready(&mut hot.line).await;
            println!("session to ready, hot: {:?}", asked.elapsed());
            hot.line.commands.send(ToInit::Stop { signal: 15, grace_ms: 5000 }).await.unwrap();
            assert_eq!(bed.ended(hot.slot).await, (143, false));
        },
    )
    .await;
}
