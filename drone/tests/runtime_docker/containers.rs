//! Making, watching and removing containers. Not its business: networks, images, the line.

use std::os::unix::fs::MetadataExt;

use futures_util::StreamExt;
use jetway_drone::runtime::{ContainerStatus, LogQuery, Runtime, RuntimeError};
use jetway_protocol::ids::SlotId;
use serde_json::json;

use crate::support::{DEADLINE, import_image, import_image_with_user, on_docker};

#[tokio::test]
async fn every_container_is_hardened() {
    on_docker(
        |_| (),
        |bed| async move {
            let parked = bed.park(bed.request(&["serve"])).await;
            let raw = bed.inspect_raw(parked.slot).await;
            let host = &raw["HostConfig"];
            for (name, expect) in [
                ("CapDrop", json!(["ALL"])),
                ("SecurityOpt", json!(["no-new-privileges"])),
                ("PidsLimit", json!(512)),
                ("Memory", json!(512 << 20)),
                ("MemorySwap", json!(512 << 20)),
                ("MemoryReservation", json!(128 << 20)),
                ("Privileged", json!(false)),
                ("PublishAllPorts", json!(false)),
                ("Init", json!(false)),
                ("OomScoreAdj", json!(0)),
                ("Binds", json!(null)),
            ] {
                assert_eq!(host[name], expect, "{name}");
            }
            assert_eq!(host["CapAdd"].as_array().unwrap().len(), 6);
            assert_eq!(host["RestartPolicy"]["Name"], "no");
            let log =
                json!({"max-size": "10m", "max-file": "2", "mode": "non-blocking", "max-buffer-size": "1m"});
            assert_eq!(host["LogConfig"], json!({"Type": "json-file", "Config": log}));
            assert!(raw["NetworkSettings"]["Ports"].as_object().is_none_or(serde_json::Map::is_empty));
            assert_eq!(raw["Config"]["Healthcheck"]["Test"], json!(["NONE"]));
            assert_eq!(raw["Config"]["Labels"]["jetway.role"], "slot");
            assert_eq!(raw["Config"]["Labels"]["jetway.slot"], parked.slot.to_string());
            let networks = raw["NetworkSettings"]["Networks"].as_object().unwrap();
            assert_eq!(networks.len(), 1);
            assert!(networks.values().all(|network| network["IPAddress"] == parked.address.to_string()));
        },
    )
    .await;
}

#[tokio::test]
async fn what_the_process_sees_is_hardened_too() {
    on_docker(
        |_| (),
        |bed| async move {
            let as_root = bed.output_of(bed.request(&["facts"])).await;
            assert!(as_root.contains("NoNewPrivs:\t1"), "{as_root}");
            // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, KILL 5, SETGID 6, SETUID 7.
            assert!(as_root.contains("CapBnd:\t00000000000000eb"), "{as_root}");
            for mount in as_root.lines().filter(|line| line.contains("/.jetway")) {
                assert!(mount.split(' ').nth(3).unwrap().split(',').any(|option| option == "ro"), "{mount}");
            }
            let mut request = bed.request(&["facts"]);
            request.executable.user = Some("65534".to_owned());
            request.executable.read_only = true;
            let as_nobody = bed.output_of(request).await;
            assert!(as_nobody.contains("Uid:\t65534"), "{as_nobody}");
            assert!(as_nobody.contains("CapBnd:\t0000000000000000"), "{as_nobody}");
            assert!(as_nobody.ends_with("done\n"), "{as_nobody}");
        },
    )
    .await;
}

#[tokio::test]
async fn every_call_can_be_repeated() {
    on_docker(
        |_| (),
        |bed| async move {
            let mut request = bed.request(&["serve"]);
            let slot = request.slot;
            let runtime = &bed.runtime;
            assert_eq!(runtime.inspect(slot).await.unwrap(), ContainerStatus::Absent);
            assert!(matches!(runtime.start(slot).await, Err(RuntimeError::Absent)));
            runtime.kill(slot, 15).await.unwrap();
            runtime.remove(slot).await.unwrap();
            request.image = runtime.ensure_image(&request.executable).await.unwrap();
            let _line = runtime.open_line(slot).await.unwrap();
            runtime.create(&request).await.unwrap();
            runtime.create(&request).await.unwrap();
            assert_eq!(runtime.inspect(slot).await.unwrap(), ContainerStatus::Created);
            runtime.kill(slot, 15).await.unwrap();
            assert_eq!(runtime.start(slot).await.unwrap(), request.address);
            assert_eq!(runtime.start(slot).await.unwrap(), request.address);
            let listed = runtime.list().await.unwrap();
            assert_eq!((listed.len(), listed[0].slot, &listed[0].backend), (1, slot, &request.backend));
            assert!(matches!(listed[0].status, ContainerStatus::Running { paused: false, address: Some(_) }));
            runtime.kill(slot, 9).await.unwrap();
            assert_eq!(bed.ended(slot).await, (137, false));
            assert!(matches!(runtime.start(slot).await, Err(RuntimeError::Refused(_))));
            let status = ContainerStatus::Exited { code: 137, oom_killed: false };
            assert_eq!(runtime.list().await.unwrap()[0].status, status);
            let directory = bed.config.run_dir.join("s");
            assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
            let (one, other) = tokio::join!(runtime.remove(slot), runtime.remove(slot));
            one.unwrap();
            other.unwrap();
            assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
            assert_eq!(runtime.inspect(slot).await.unwrap(), ContainerStatus::Absent);
            assert_eq!(runtime.list().await.unwrap(), vec![]);
        },
    )
    .await;
}

const ALL: LogQuery = LogQuery { tail: None, follow: false, timestamps: false };

#[tokio::test]
async fn an_exit_tells_its_code_and_its_last_output() {
    on_docker(
        |_| (),
        |bed| async move {
            let parked = bed.run(bed.request(&["exit", "7"])).await;
            assert_eq!(bed.ended(parked.slot).await, (7, false));
            let output = bed.runtime.output_tail(parked.slot, 4096).await.unwrap();
            assert!(
                output.contains("to stdout\n") && output.contains("to stderr without a newline"),
                "{output:?}"
            );
            let end = bed.runtime.output_tail(parked.slot, 7).await.unwrap();
            assert_eq!(end.len(), 7);
            let mut stream = bed.runtime.logs(parked.slot, ALL).await.unwrap();
            let mut bytes = Vec::new();
            while let Some(chunk) = stream.next().await {
                bytes.extend(chunk.unwrap());
            }
            assert_eq!(String::from_utf8(bytes).unwrap(), output);
            let mut stream =
                bed.runtime.logs(parked.slot, LogQuery { timestamps: true, ..ALL }).await.unwrap();
            let first = String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap();
            assert!(first.starts_with("20") && first[..40].contains("Z "), "{first:?}");
            let absent = bed.runtime.logs(SlotId::random(), ALL).await;
            assert!(matches!(absent.map(|_| ()), Err(RuntimeError::Absent)));
            assert!(matches!(bed.runtime.output_tail(SlotId::random(), 9).await, Err(RuntimeError::Absent)));
        },
    )
    .await;
}

#[tokio::test]
async fn followed_output_comes_as_it_is_written_and_ends_with_the_container() {
    on_docker(
        |_| (),
        |bed| async move {
            let parked = bed.run(bed.request(&["connect", "127.0.0.1:1"])).await;
            let mut stream = bed.runtime.logs(parked.slot, LogQuery { follow: true, ..ALL }).await.unwrap();
            let mut text = String::new();
            let read = async {
                while let Some(chunk) = stream.next().await {
                    text.push_str(&String::from_utf8_lossy(&chunk.unwrap()));
                }
            };
            tokio::time::timeout(DEADLINE, read).await.expect("the stream ends");
            assert!(text.ends_with("done\n"), "{text:?}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_kill_for_memory_is_told() {
    on_docker(
        |_| (),
        |bed| async move {
            let mut request = bed.request(&["eat"]);
            request.executable.resource_limits.memory_limit_bytes = Some(32 << 20);
            let parked = bed.run(request).await;
            assert_eq!(bed.ended(parked.slot).await, (137, true));
        },
    )
    .await;
}

#[tokio::test]
async fn what_the_engine_cannot_do_is_a_refusal() {
    on_docker(
        |_| (),
        |bed| async move {
            let runtime = &bed.runtime;
            let mut request = bed.request(&["serve"]);
            request.image = runtime.ensure_image(&request.executable).await.unwrap();
            request.executable.resource_limits.disk_limit_bytes = Some(1 << 30);
            // Only some storage drivers can; where this one can, the container is made.
            match runtime.create(&request).await {
                Ok(()) => {
                    assert!(runtime.facts().can_limit_disk);
                    runtime.remove(request.slot).await.unwrap();
                }
                Err(error) => assert!(matches!(error, RuntimeError::NotOffered(_)), "{error}"),
            }
            request.executable.resource_limits.disk_limit_bytes = None;
            request.executable.resource_limits.memory_limit_bytes = Some(1);
            let error = runtime.create(&request).await.unwrap_err();
            assert!(matches!(error, RuntimeError::Refused(_)), "{error}");
            request.executable.resource_limits.memory_limit_bytes = None;
            request.executable.user = Some("nobody-here".to_owned());
            runtime.create(&request).await.unwrap();
            let error = runtime.start(request.slot).await.unwrap_err();
            assert!(matches!(error, RuntimeError::Refused(_)), "{error}");
            assert_eq!(runtime.inspect(request.slot).await.unwrap(), ContainerStatus::Created);
        },
    )
    .await;
}

#[tokio::test]
async fn an_images_own_user_decides_its_capabilities() {
    on_docker(
        |_| (),
        |bed| async move {
            let image = bed.image.replace(":t", ":other");
            import_image(&bed.engine, &image, &["USER 65534", "HEALTHCHECK CMD false"]).await;
            let mut request = bed.request(&["facts"]);
            request.executable.image = image.clone();
            let read = bed.runtime.ensure_image(&request.executable).await.unwrap();
            assert_eq!((read.user.as_str(), read.stop_signal), ("65534", 15));
            assert_eq!(read.entrypoint, ["/session"]);
            let output = bed.output_of(request).await;
            assert!(output.contains("CapBnd:\t0000000000000000"), "{output}");
            for found in bed.runtime.list().await.unwrap() {
                bed.runtime.remove(found.slot).await.unwrap();
            }
            let docker = bed.engine.docker();
            docker
                .remove_image(&image, None::<bollard::query_parameters::RemoveImageOptions>, None)
                .await
                .unwrap();
        },
    )
    .await;
}

#[tokio::test]
async fn a_mount_stays_below_its_base() {
    let base = std::path::PathBuf::from(format!("/tmp/jw-base-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&base).unwrap();
    let configured = base.clone();
    let run = on_docker(
        |config| config.mount_base = Some(configured),
        |bed| async move {
            let base = bed.config.mount_base.clone().unwrap();
            let mut request = bed.request(&["write", "/plane-data/file", "kept"]);
            request.executable.mount = Some("team/document".to_owned());
            request.executable.user = Some("65534".to_owned());
            let output = bed.output_of(request).await;
            assert_eq!(output, "written\n");
            assert_eq!(std::fs::read_to_string(base.join("team/document/file")).unwrap(), "kept");
            std::os::unix::fs::symlink("/etc", base.join("link")).unwrap();
            for bad in ["../x", "/etc", "a/../../x", "", "link", "link/ssl", "team/document/file"] {
                let mut request = bed.request(&["serve"]);
                request.image = bed.runtime.ensure_image(&request.executable).await.unwrap();
                request.executable.mount = Some(bad.to_owned());
                let error = bed.runtime.create(&request).await.unwrap_err();
                assert!(matches!(error, RuntimeError::Refused(_)), "{bad}: {error}");
                assert_eq!(bed.runtime.inspect(request.slot).await.unwrap(), ContainerStatus::Absent);
            }
        },
    );
    run.await;
    std::fs::remove_dir_all(base).unwrap();
}

#[tokio::test]
async fn a_new_mount_belongs_to_the_images_user() {
    let base = std::path::PathBuf::from(format!("/tmp/jw-base-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&base).unwrap();
    let configured = base.clone();
    let run = on_docker(
        |config| config.mount_base = Some(configured),
        |bed| async move {
            let base = bed.config.mount_base.clone().unwrap();
            let image = format!("{}-named", bed.image);
            import_image_with_user(&bed.engine, &image, "node").await;
            let mut request = bed.request(&["write", "/plane-data/file", "kept"]);
            request.executable.image.clone_from(&image);
            request.executable.mount = Some("document".to_owned());
            assert_eq!(bed.output_of(request).await, "written\n");
            let remapped = bed.runtime.facts().remapped_root.unwrap_or_default();
            let found = std::fs::metadata(base.join("document")).unwrap();
            let owner = (found.uid() - remapped.0, found.gid() - remapped.1);
            assert_eq!((owner, found.mode() & 0o7777), ((1000, 1001), 0o755));
            for found in bed.runtime.list().await.unwrap() {
                bed.runtime.remove(found.slot).await.unwrap();
            }
            bed.remove_image(&image).await;
        },
    );
    run.await;
    std::fs::remove_dir_all(base).unwrap();
}

#[tokio::test]
async fn a_mount_that_is_exchanged_behind_the_check_never_runs() {
    let base = std::path::PathBuf::from(format!("/tmp/jw-base-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&base).unwrap();
    let configured = base.clone();
    let run = on_docker(
        |config| config.mount_base = Some(configured),
        |bed| async move {
            let base = bed.config.mount_base.clone().unwrap();
            let mut request = bed.request(&["serve"]);
            request.image = bed.runtime.ensure_image(&request.executable).await.unwrap();
            request.executable.mount = Some("document".to_owned());
            let _line = bed.runtime.open_line(request.slot).await.unwrap();
            bed.runtime.create(&request).await.unwrap();
            std::fs::remove_dir(base.join("document")).unwrap();
            std::os::unix::fs::symlink("/etc", base.join("document")).unwrap();
            let error = bed.runtime.start(request.slot).await.unwrap_err();
            assert!(matches!(error, RuntimeError::Refused(_)), "{error}");
            bed.ended(request.slot).await;
        },
    );
    run.await;
    std::fs::remove_dir_all(base).unwrap();
}

#[tokio::test]
async fn without_a_base_there_are_no_mounts() {
    on_docker(
        |_| (),
        |bed| async move {
            let mut request = bed.request(&["serve"]);
            request.executable.mount = Some("x".to_owned());
            let error = bed.runtime.create(&request).await.unwrap_err();
            assert!(matches!(error, RuntimeError::NotOffered(_)), "{error}");
        },
    )
    .await;
}
