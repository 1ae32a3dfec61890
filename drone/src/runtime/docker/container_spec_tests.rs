//! From requests to the words that the engine gets. Not its business: what the engine makes of them
//! (`drone/tests/runtime_docker`).

use jetway_protocol::ids::{DroneId, InstallationId, SlotId};

use super::*;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn image(entrypoint: &str, cmd: &str) -> Image {
    Image {
        id: "sha256:1".to_owned(),
        entrypoint: words(entrypoint),
        cmd: words(cmd),
        user: String::new(),
        stop_signal: 15,
        pulled: None,
    }
}

fn config() -> DockerConfig {
    let (installation, drone) = (InstallationId::random(), DroneId::random());
    DockerConfig::new(installation, drone, "/data".into(), "/run/j".into(), "/init".into())
}

fn make(
    change: impl FnOnce(&mut CreateRequest, &mut DockerConfig),
) -> Result<ContainerCreateBody, RuntimeError> {
    let mut config = config();
    let mut request = CreateRequest {
        slot: SlotId::random(),
        backend: Some("b1".parse().unwrap()),
        executable: Executable::of_image("x"),
        image: image("/app", "serve"),
        address: Ipv4Addr::new(10, 64, 0, 7),
        sandbox: None,
    };
    change(&mut request, &mut config);
    let around = Surroundings {
        config: &config,
        network_id: "net",
        init_dir: Path::new("/data/init/1"),
        lease_dir: Path::new("/run/jetway/lease"),
        slot_dir: Path::new("/run/j/s/1"),
        data_mount: request.executable.mount.as_ref().map(|_| Path::new("/base/m")),
        // In these tests, another runtime stands for an engine that limits no disk.
        can_limit_disk: config.container_runtime.is_none(),
    };
    container(&request, &around)
}

#[test]
fn arguments_follow_dockers_rule() {
    for (entrypoint, cmd, expect) in [
        (None, None, "e1 e2 c1"),
        (Some("x"), None, "x"),
        (Some("x"), Some("y z"), "x y z"),
        (None, Some("y"), "e1 e2 y"),
        (None, Some(""), "e1 e2"),
        (Some(""), Some("y"), "y"),
    ] {
        let mut executable = Executable::of_image("i");
        executable.entrypoint = entrypoint.map(words);
        executable.cmd = cmd.map(words);
        assert_eq!(argv(&executable, &image("e1 e2", "c1")), words(expect), "{entrypoint:?} {cmd:?}");
    }
    let mut executable = Executable::of_image("i");
    executable.entrypoint = Some(vec![String::new()]);
    assert_eq!(argv(&executable, &image("e", "c")), Vec::<String>::new());
}

#[test]
fn a_container_is_hardened() {
    let body = make(|_, _| ()).unwrap();
    assert_eq!(body.entrypoint, Some(vec![INIT_PATH.to_owned(), "--".to_owned()]));
    assert_eq!(body.cmd, Some(words("/app serve")));
    assert_eq!(body.env, None);
    assert_eq!(body.healthcheck.unwrap().test, Some(words("NONE")));
    assert_eq!(body.labels.unwrap()["jetway.backend"], "b1");
    let host = body.host_config.unwrap();
    assert_eq!(host.cap_drop, Some(words("ALL")));
    assert_eq!(host.cap_add.unwrap().len(), 6);
    assert_eq!(host.security_opt, Some(words("no-new-privileges")));
    assert_eq!(host.pids_limit, Some(512));
    assert_eq!((host.memory, host.memory_swap), (Some(512 << 20), Some(512 << 20)));
    assert_eq!(host.memory_reservation, Some(128 << 20));
    assert_eq!(host.mounts.unwrap().iter().filter(|mount| mount.read_only == Some(true)).count(), 3);
    assert_eq!(host.port_bindings, None);
    assert_eq!(host.network_mode.as_deref(), Some("net"));
    let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
    assert_eq!(endpoints["net"].ipam_config.as_ref().unwrap().ipv4_address.as_deref(), Some("10.64.0.7"));
}

#[test]
fn only_root_keeps_what_gosu_needs() {
    for (user, expect) in [
        ("", 6),
        ("0", 6),
        ("00:5", 6),
        ("root", 6),
        ("root:root", 6),
        ("65534", 0),
        ("node", 0),
        ("1000:0", 0),
    ] {
        let from_image = make(|request, _| request.image.user = user.to_owned()).unwrap();
        assert_eq!(from_image.host_config.unwrap().cap_add.unwrap().len(), expect, "{user:?}");
        let from_spec = make(|request, _| {
            request.image.user = "7".to_owned();
            request.executable.user = Some(user.to_owned());
        });
        assert_eq!(from_spec.unwrap().host_config.unwrap().cap_add.unwrap().len(), expect, "{user:?}");
    }
}

#[test]
fn limits_are_passed_on() {
    let body = make(|request, _| {
        let limits = &mut request.executable.resource_limits;
        limits.cpu_period_percent = Some(50);
        limits.cpu_time_limit = Some(9);
        limits.memory_limit_bytes = Some(64 << 20);
        limits.disk_limit_bytes = Some(1 << 30);
        request.executable.cpu_reserve = 0.5;
    });
    let host = body.unwrap().host_config.unwrap();
    assert_eq!((host.cpu_period, host.cpu_quota), (Some(100_000), Some(50_000)));
    assert_eq!(host.ulimits.unwrap()[0].hard, Some(9));
    assert_eq!((host.memory, host.memory_reservation), (Some(64 << 20), Some(64 << 20)));
    assert_eq!(host.storage_opt.unwrap()["size"], (1u64 << 30).to_string());
    assert_eq!(host.cpu_shares, Some(512));
    assert_eq!(cpu_shares(0.0), 102);
    assert_eq!(cpu_shares(1e12), 262_144);
    assert_eq!(cpu_shares(f64::NAN), 0);
}

#[test]
fn what_is_not_offered_is_refused() {
    for name in ["host", "none", "container:x", "bridge", "other", "", "default"] {
        let outcome = make(|request, config| {
            request.executable.network_name = Some(name.to_owned());
            config.allowed_networks = words("host none container:x mine");
            config.allowed_networks.push(String::new());
        });
        assert!(matches!(outcome, Err(RuntimeError::NotOffered(_))), "{name}");
    }
    let body = make(|request, config| {
        request.executable.network_name = Some("mine".to_owned());
        config.allowed_networks = words("mine");
    });
    let body = body.unwrap();
    assert_eq!(body.host_config.unwrap().network_mode.as_deref(), Some("mine"));
    assert_eq!(body.networking_config, None);
    for path in ["relative", "/.jetway", "/.jetway/run"] {
        let outcome = make(|request, _| {
            request.executable.tmpfs = [(path.to_owned(), String::new())].into();
        });
        assert!(matches!(outcome, Err(RuntimeError::Refused(_))), "{path}");
    }
    let outcome = make(|request, config| {
        request.executable.resource_limits.disk_limit_bytes = Some(1);
        config.container_runtime = Some("runsc".to_owned());
    });
    assert!(matches!(outcome, Err(RuntimeError::NotOffered(_))));
    let outcome = make(|request, _| request.image = image("", ""));
    assert!(matches!(outcome, Err(RuntimeError::Refused(_))));
}
