//! Sandboxes: what joins one is like any other container, gets its address and its network, and costs the engine less. Not
//! its business: how many are kept, and for whom.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jetway_drone::runtime::docker::{DockerRuntime, names};
use jetway_drone::runtime::{ContainerStatus, CreateRequest, Runtime, RuntimeError};
use jetway_protocol::ids::SlotId;
use jetway_service::lifecycle::Lifecycle;
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, import_image, on_docker, until_ready};

/// Pairs that are measured in turn.
const PAIRS: usize = 10;

/// Makes a sandbox at the request's address, for the request.
async fn with_sandbox(bed: &Bed, mut request: CreateRequest) -> CreateRequest {
    let sandbox = SlotId::random();
    bed.runtime.make_sandbox(sandbox, request.address).await.unwrap();
    request.sandbox = Some(sandbox);
    request
}

async fn raw_sandbox(bed: &Bed, sandbox: SlotId) -> Value {
    bed.engine.get(&format!("/containers/{}/json", names::sandbox(sandbox)), &[]).await.unwrap()
}

/// The container runtime's own process is in its place until just after the start.
async fn status_of_init(pid: i64) -> String {
    let look = async {
        loop {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            if status.starts_with("Name:\tjetway-init\n") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, look).await.expect("init is executed")
}

async fn kill_sandbox(bed: &Bed, sandbox: SlotId) {
    let options = None::<bollard::query_parameters::KillContainerOptions>;
    bed.engine.docker().kill_container(&names::sandbox(sandbox), options).await.unwrap();
}

#[tokio::test]
async fn what_joins_a_sandbox_is_hardened_like_any_other() {
    on_docker(
        |_| (),
        |bed| async move {
            let cold = bed.park(bed.request(&["serve"])).await;
            let joined = bed.park(with_sandbox(&bed, bed.request(&["serve"])).await).await;
            let (mut cold, mut joined) =
                (bed.inspect_raw(cold.slot).await, bed.inspect_raw(joined.slot).await);
            let mode = joined["HostConfig"]["NetworkMode"].as_str().unwrap().to_owned();
            assert!(mode.starts_with("container:"), "{mode}");
            // Whatever else the engine knows of the two is the same: but for names, and the path of the slot's directory.
            for raw in [&mut cold, &mut joined] {
                raw["HostConfig"]["NetworkMode"] = json!(null);
                raw["Config"]["Hostname"] = json!(null);
                for name in ["jetway.slot", "jetway.backend", "jetway.sandbox"] {
                    raw["Config"]["Labels"].as_object_mut().unwrap().remove(name);
                }
                for mount in raw["HostConfig"]["Mounts"].as_array_mut().unwrap() {
                    if mount["Target"] == "/.jetway/run" {
                        mount["Source"] = json!(null);
                    }
                }
            }
            assert_eq!(joined["HostConfig"], cold["HostConfig"]);
            assert_eq!(joined["Config"], cold["Config"]);
            assert_eq!(joined["AppArmorProfile"], cold["AppArmorProfile"]);
        },
    )
    .await;
}

#[tokio::test]
async fn a_sandbox_itself_may_do_nothing_and_needs_little() {
    on_docker(
        |_| (),
        |bed| async move {
            let request = with_sandbox(&bed, bed.request(&["serve"])).await;
            let raw = raw_sandbox(&bed, request.sandbox.unwrap()).await;
            let host = &raw["HostConfig"];
            for (name, expect) in [
                ("CapDrop", json!(["ALL"])),
                ("CapAdd", json!(null)),
                ("SecurityOpt", json!(["no-new-privileges"])),
                ("PidsLimit", json!(16)),
                ("Memory", json!(32 << 20)),
                ("MemorySwap", json!(32 << 20)),
                ("ReadonlyRootfs", json!(true)),
                ("Privileged", json!(false)),
                ("PublishAllPorts", json!(false)),
                ("LogConfig", json!({"Type": "none", "Config": {}})),
            ] {
                assert_eq!(host[name], expect, "{name}");
            }
            assert_eq!(host["RestartPolicy"]["Name"], "no");
            let networks = raw["NetworkSettings"]["Networks"].as_object().unwrap();
            assert_eq!(networks.len(), 1);
            assert!(networks.values().all(|network| network["IPAddress"] == request.address.to_string()));

            let pid = raw["State"]["Pid"].as_i64().unwrap();
            let status = status_of_init(pid).await;
            let field = |name: &str| {
                status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
            };
            assert_eq!((field("CapBnd:").as_str(), field("NoNewPrivs:").as_str()), ("0000000000000000", "1"));
            let nobody = 65534 + bed.runtime.facts().remapped_root.unwrap_or_default().0;
            assert!(field("Uid:").starts_with(&nobody.to_string()), "{status}");
            let kilobytes: u64 = field("RssAnon:").split(' ').next().unwrap().parse().unwrap();
            println!("a sandbox's process has {kilobytes} kB of its own, {} in all", field("VmRSS:"));
            assert!(kilobytes < 512, "{status}");
            bed.runtime.remove_sandbox(request.sandbox.unwrap()).await.unwrap();
        },
    )
    .await;
}

#[tokio::test]
async fn a_session_in_a_sandbox_has_its_address_is_ready_and_can_be_reached() {
    on_docker(
        |_| (),
        |bed| async move {
            // An image may name ports; a container that joins another may not publish any, and does not.
            let image = bed.image.replace(":t", ":exposed");
            import_image(&bed.engine, &image, &["EXPOSE 8080"]).await;
            let mut request = with_sandbox(&bed, bed.request(&["serve"])).await;
            request.executable.image = image.clone();
            let (address, sandbox) = (request.address, request.sandbox.unwrap());
            let mut session = bed.run(request).await;
            assert_eq!(session.address, address);
            assert_eq!(until_ready(&mut session.line).await.port(), 8080);
            assert!(tokio::net::TcpStream::connect((address, 8080)).await.is_ok());
            let running = ContainerStatus::Running { paused: false, address: Some(address.into()) };
            assert_eq!(bed.runtime.inspect(session.slot).await.unwrap(), running);

            let slots = bed.runtime.list().await.unwrap();
            assert_eq!(slots.iter().map(|found| found.slot).collect::<Vec<_>>(), [session.slot]);
            assert_eq!(slots[0].sandbox, Some(sandbox));
            let sandboxes = bed.runtime.list_sandboxes().await.unwrap();
            assert_eq!(sandboxes.len(), 1);
            let held = &sandboxes[0];
            assert_eq!((held.slot, &held.backend, held.sandbox), (sandbox, &None, None));
            assert_eq!(held.status, running);

            bed.runtime.remove(session.slot).await.unwrap();
            let left = bed.runtime.remove_network().await.unwrap_err();
            assert!(left.to_string().contains("1 of this drone's containers"), "{left}");
            bed.runtime.remove_sandbox(sandbox).await.unwrap();
            bed.runtime.remove_sandbox(sandbox).await.unwrap();
            assert_eq!(bed.runtime.list_sandboxes().await.unwrap(), []);
            bed.remove_image(&image).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_session_cannot_harm_what_holds_its_network() {
    on_docker(
        |_| (),
        |bed| async move {
            for user in ["0:0", "1000:1000"] {
                let mut request = with_sandbox(&bed, bed.request(&["massacre"])).await;
                request.executable.user = Some(user.to_owned());
                let (address, sandbox) = (request.address, request.sandbox.unwrap());
                let mut session = bed.run(request).await;
                until_ready(&mut session.line).await;
                let seen = processes_seen(&bed, session.slot).await;
                // PID 1 is init; the other is the application.
                assert_eq!(seen.len(), 2, "{user}: {seen:?}");
                assert!(tokio::net::TcpStream::connect((address, 8080)).await.is_ok(), "{user}");
                let raw = raw_sandbox(&bed, sandbox).await;
                assert_eq!(raw["State"]["Running"], json!(true), "{user}");
            }
        },
    )
    .await;
}

/// What the application says that it sees; the engine's log comes a little behind.
async fn processes_seen(bed: &Bed, slot: SlotId) -> Vec<String> {
    let look = async {
        loop {
            let said = bed.runtime.output_tail(slot, 4096).await.unwrap();
            let seen = said.lines().find_map(|line| line.strip_prefix("processes: "));
            match seen {
                Some(seen) => return seen.split(' ').map(str::to_owned).collect(),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, look).await.expect("the application says what it sees")
}

#[tokio::test]
async fn sessions_in_sandboxes_reach_neither_the_host_nor_each_other() {
    on_docker(
        |_| (),
        |bed| async move {
            let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut cold = bed.run(bed.request(&["serve"])).await;
            let mut joined = bed.run(with_sandbox(&bed, bed.request(&["serve"])).await).await;
            until_ready(&mut cold.line).await;
            until_ready(&mut joined.line).await;
            let targets = [
                format!("{}:{port}", bed.runtime.subnet().gateway),
                format!("{}:8080", cold.address),
                format!("{}:8080", joined.address),
            ];
            let mut request = with_sandbox(&bed, bed.request(&["connect"])).await;
            request.executable.cmd.as_mut().unwrap().extend(targets.iter().cloned());
            let output = bed.output_of(request).await;
            for target in &targets {
                assert!(output.contains(&format!("{target} closed: TimedOut")), "{output}");
            }
        },
    )
    .await;
}

/// The engine takes the link away with the sandbox, whatever else still runs in the namespace.
#[tokio::test]
async fn when_a_sandbox_dies_its_session_is_ended_and_no_other() {
    on_docker(
        |_| (),
        |bed| async move {
            let mut hints = bed.runtime.hints();
            let doomed = bed.run(with_sandbox(&bed, bed.request(&["serve"])).await).await;
            let other = bed.run(with_sandbox(&bed, bed.request(&["serve"])).await).await;
            let cold = bed.run(bed.request(&["serve"])).await;
            let slots = bed.runtime.list().await.unwrap();
            let sandbox = slots.iter().find(|found| found.slot == doomed.slot).unwrap().sandbox.unwrap();
            kill_sandbox(&bed, sandbox).await;
            assert_eq!(bed.ended(doomed.slot).await, (137, false));
            assert!(bed.runtime.was_cut_off(doomed.slot) && !bed.runtime.was_cut_off(other.slot));
            let told = async { while hints.recv().await.unwrap() != sandbox {} };
            tokio::time::timeout(DEADLINE, told).await.expect("a hint about the sandbox itself");
            for slot in [other.slot, cold.slot] {
                let status = bed.runtime.inspect(slot).await.unwrap();
                assert!(matches!(status, ContainerStatus::Running { paused: false, .. }), "{status:?}");
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_sandbox_that_is_gone_is_told_from_other_failures() {
    on_docker(
        |_| (),
        |bed| async move {
            for is_removed in [false, true] {
                let mut request = with_sandbox(&bed, bed.request(&["serve"])).await;
                let sandbox = request.sandbox.unwrap();
                request.image = bed.runtime.ensure_image(&request.executable).await.unwrap();
                bed.runtime.create(&request).await.unwrap();
                kill_sandbox(&bed, sandbox).await;
                if is_removed {
                    bed.runtime.remove_sandbox(sandbox).await.unwrap();
                }
                let error = bed.runtime.start(request.slot).await.unwrap_err();
                assert!(matches!(error, RuntimeError::SandboxGone), "{is_removed}: {error}");
                assert_eq!(bed.runtime.inspect(request.slot).await.unwrap(), ContainerStatus::Created);
            }
            let mut never = bed.request(&["serve"]);
            never.image = bed.runtime.ensure_image(&never.executable).await.unwrap();
            never.sandbox = Some(SlotId::random());
            bed.runtime.create(&never).await.unwrap();
            let error = bed.runtime.start(never.slot).await.unwrap_err();
            assert!(matches!(error, RuntimeError::SandboxGone), "{error}");
            bed.runtime.remove(never.slot).await.unwrap();
            assert!(matches!(bed.runtime.start(never.slot).await, Err(RuntimeError::Absent)));
        },
    )
    .await;
}

#[tokio::test]
async fn an_agent_that_restarts_finds_who_joined_what_and_where() {
    on_docker(
        |_| (),
        |bed| async move {
            let request = with_sandbox(&bed, bed.request(&["serve"])).await;
            let (address, sandbox) = (request.address, request.sandbox.unwrap());
            let session = bed.run(request).await;
            let lifecycle = Lifecycle::new();
            let second = Arc::new(DockerRuntime::connect(bed.config.clone(), &lifecycle).await.unwrap());
            let slots = second.list().await.unwrap();
            assert_eq!((slots.len(), slots[0].sandbox), (1, Some(sandbox)));
            assert_eq!(second.start(session.slot).await.unwrap(), address, "it runs already");
            let running = ContainerStatus::Running { paused: false, address: Some(address.into()) };
            assert_eq!(second.inspect(session.slot).await.unwrap(), running);
            let sandboxes = second.list_sandboxes().await.unwrap();
            assert_eq!((sandboxes.len(), sandboxes[0].slot), (1, sandbox));
            second.make_sandbox(sandbox, address).await.unwrap();
            assert!(
                tokio::net::TcpStream::connect((address, 8080)).await.is_ok(),
                "repeating it harms nothing"
            );
            assert!(lifecycle.stop().await);
        },
    )
    .await;
}

/// Somebody may clear the engine of images that are not used.
#[tokio::test]
async fn its_image_is_made_again_when_it_is_gone() {
    on_docker(
        |_| (),
        |bed| async move {
            let image = format!("{}:{}", names::SANDBOX_IMAGE, names::SANDBOX_IMAGE_TAG);
            // In use by another test's sandbox it cannot be removed, but its name can.
            let options = bollard::query_parameters::RemoveImageOptionsBuilder::default().force(true).build();
            let _absent_is_fine = bed.engine.docker().remove_image(&image, Some(options), None).await;
            let (one, other) = tokio::join!(
                with_sandbox(&bed, bed.request(&["serve"])),
                with_sandbox(&bed, bed.request(&["serve"])),
            );
            let raw = bed.engine.get(&format!("/images/{image}/json"), &[]).await.unwrap();
            assert_eq!(raw["Config"]["Labels"]["jetway.role"], "sandbox");
            for request in [one, other] {
                let sandbox = request.sandbox.unwrap();
                let made_of = raw_sandbox(&bed, sandbox).await["Image"].clone();
                assert_eq!(made_of, raw["Id"], "one of two at once leaves no image without a name");
                bed.runtime.remove_sandbox(sandbox).await.unwrap();
            }
        },
    )
    .await;
}

#[tokio::test]
async fn to_join_is_quicker_than_to_make_all() {
    on_docker(
        |_| (),
        |bed| async move {
            let executable = bed.request(&["serve"]).executable;
            let image = bed.runtime.ensure_image(&executable).await.unwrap();
            let (mut alone, mut joined) = (Vec::new(), Vec::new());
            for _ in 0..PAIRS {
                alone.push(
                    create_and_start(&bed, CreateRequest { image: image.clone(), ..bed.request(&["serve"]) })
                        .await,
                );
                let request = with_sandbox(&bed, bed.request(&["serve"])).await;
                joined.push(create_and_start(&bed, CreateRequest { image: image.clone(), ..request }).await);
            }
            let (alone, joined) = (median(alone), median(joined));
            println!("create and start: {alone:?} alone, {joined:?} joined (medians of {PAIRS})");
            assert!(joined < alone, "{joined:?} joined, {alone:?} alone");
        },
    )
    .await;
}

async fn create_and_start(bed: &Bed, request: CreateRequest) -> Duration {
    let (slot, address): (SlotId, Ipv4Addr) = (request.slot, request.address);
    let _line = bed.runtime.open_line(slot).await.unwrap();
    let began = Instant::now();
    bed.runtime.create(&request).await.unwrap();
    assert_eq!(bed.runtime.start(slot).await.unwrap(), address);
    let took = began.elapsed();
    bed.runtime.remove(slot).await.unwrap();
    if let Some(sandbox) = request.sandbox {
        bed.runtime.remove_sandbox(sandbox).await.unwrap();
    }
    took
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of[of.len() / 2]
}
