//! A drone's Docker side for one test, and its end. Not its business: any one test.

use std::future::Future;
use std::net::Ipv4Addr;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use jetway_drone::runtime::docker::engine::Engine;
use jetway_drone::runtime::docker::import::{ImageFile, import};
use jetway_drone::runtime::docker::{DockerConfig, DockerRuntime, names, nft};
use jetway_drone::runtime::{ContainerStatus, CreateRequest, InitLine, LineEvent, Runtime};
use jetway_protocol::ids::{BackendId, DroneId, FencingToken, InstallationId, SlotId};
use jetway_protocol::init::{FromInit, Session, ToInit};
use jetway_protocol::spec::{Executable, InitMode};
use jetway_service::lifecycle::Lifecycle;

pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Bed {
    pub runtime: Arc<DockerRuntime>,
    pub lifecycle: Lifecycle,
    pub config: DockerConfig,
    pub engine: Engine,
    pub image: String,
    addresses: AtomicU32,
}

/// A slot with its line, parked or claimed.
pub struct Parked {
    pub slot: SlotId,
    pub line: InitLine,
    pub address: Ipv4Addr,
    pub nonce: String,
}

/// Runs a test on a bed that `change` prepared, takes everything away, and asserts that it is gone.
pub async fn on_docker<F, T>(change: impl FnOnce(&mut DockerConfig), test: F)
where
    F: FnOnce(Arc<Bed>) -> T,
    T: Future<Output = ()>,
{
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let root = PathBuf::from(format!("/tmp/jw-{}", &unique[..8]));
    std::fs::create_dir_all(root.join("run")).unwrap();
    let (installation, drone) = (InstallationId::random(), DroneId::random());
    let mut config =
        DockerConfig::new(installation, drone, root.join("data"), root.join("run"), built("jetway-init"));
    change(&mut config);
    let engine = Engine::from_environment().unwrap();
    let image = format!("jetway-test-{unique}:t");
    import_image(&engine, &image, &[]).await;
    config.helper_image = Some(image.clone());
    let lifecycle = Lifecycle::new();
    let runtime = Arc::new(DockerRuntime::connect(config.clone(), &lifecycle).await.unwrap());
    let addresses = AtomicU32::new(2);
    let bed = Arc::new(Bed { runtime, lifecycle, config, engine, image, addresses });
    let outcome = AssertUnwindSafe(test(Arc::clone(&bed))).catch_unwind().await;
    let left = bed.take_away().await;
    std::fs::remove_dir_all(&root).unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    assert_eq!(left, Vec::<String>::new());
}

impl Bed {
    pub fn request(&self, args: &[&str]) -> CreateRequest {
        let offset = self.addresses.fetch_add(1, Ordering::Relaxed);
        let subnet = self.runtime.subnet();
        let mut executable = Executable::of_image(&self.image);
        executable.cmd = Some(args.iter().map(|arg| (*arg).to_owned()).collect());
        CreateRequest {
            slot: SlotId::random(),
            backend: Some(BackendId::random()),
            executable,
            image: jetway_drone::runtime::Image {
                id: String::new(),
                entrypoint: Vec::new(),
                cmd: Vec::new(),
                user: String::new(),
                stop_signal: 15,
                pulled: None,
            },
            address: Ipv4Addr::from(u32::from(subnet.network) + offset),
            sandbox: None,
        }
    }

    /// Opens the line, makes and starts the container, waits until init is parked.
    pub async fn park(&self, mut request: CreateRequest) -> Parked {
        request.image = self.runtime.ensure_image(&request.executable).await.unwrap();
        let slot = request.slot;
        let mut line = self.runtime.open_line(slot).await.unwrap();
        self.runtime.create(&request).await.unwrap();
        let address = self.runtime.start(slot).await.unwrap();
        assert!(request.executable.network_name.is_some() || address == request.address);
        let nonce = match event(&mut line).await {
            LineEvent::Connected(hello) => {
                assert_eq!(hello.session, None);
                hello.nonce
            }
            other => panic!("{other:?}"),
        };
        let std::net::IpAddr::V4(address) = address else { panic!("{address}") };
        Parked { slot, line, address, nonce }
    }

    /// Parks it and gives it a session that runs what the request says.
    pub async fn run(&self, request: CreateRequest) -> Parked {
        let backend = request.backend.clone().unwrap();
        let parked = self.park(request).await;
        parked
            .line
            .commands
            .send(ToInit::Session(Box::new(session(&backend, parked.address))))
            .await
            .unwrap();
        parked
    }

    /// Runs it to its end and returns what it wrote.
    pub async fn output_of(&self, request: CreateRequest) -> String {
        let parked = self.run(request).await;
        self.ended(parked.slot).await;
        self.runtime.output_tail(parked.slot, 4096).await.unwrap()
    }

    /// Waits for the end by hints, as the drone does.
    pub async fn ended(&self, slot: SlotId) -> (i32, bool) {
        let mut hints = self.runtime.hints();
        let end = async {
            loop {
                if let ContainerStatus::Exited { code, oom_killed } =
                    self.runtime.inspect(slot).await.unwrap()
                {
                    return (code, oom_killed);
                }
                let _hint_or_lag = hints.recv().await;
            }
        };
        tokio::time::timeout(DEADLINE, end).await.expect("the container ends")
    }

    pub async fn inspect_raw(&self, slot: SlotId) -> serde_json::Value {
        self.engine.get(&format!("/containers/{}/json", names::container(slot)), &[]).await.unwrap()
    }

    pub async fn remove_image(&self, image: &str) {
        let options = None::<bollard::query_parameters::RemoveImageOptions>;
        self.engine.docker().remove_image(image, options, None).await.unwrap();
    }

    /// Everything that the test made on this host; returns what could not be removed.
    async fn take_away(&self) -> Vec<String> {
        let mut left = Vec::new();
        for found in self.runtime.list().await.unwrap() {
            self.runtime.remove(found.slot).await.unwrap();
        }
        for found in self.runtime.list_sandboxes().await.unwrap() {
            self.runtime.remove_sandbox(found.slot).await.unwrap();
        }
        if let Err(error) = self.runtime.remove_network().await {
            left.push(error.to_string());
        }
        let docker = self.engine.docker();
        if let Err(error) = docker
            .remove_image(&self.image, None::<bollard::query_parameters::RemoveImageOptions>, None)
            .await
        {
            left.push(error.to_string());
        }
        if !self.lifecycle.stop().await {
            left.push("tasks".to_owned());
        }
        let bridge = names::bridge(self.config.drone);
        if Path::new("/sys/class/net").join(&bridge).exists() {
            left.push(bridge);
        }
        let table = names::firewall_table(self.config.drone);
        if nft::is_present(&table).unwrap() {
            left.push(table);
        }
        left
    }
}

/// An image that holds only the tests' executable, as `/session` and as `jetway` on the path.
pub async fn import_image(engine: &Engine, image: &str, changes: &[&str]) {
    import_files(engine, image, changes, &[]).await;
}

/// The same with a user 1000:1001 of this name.
pub async fn import_image_with_user(engine: &Engine, image: &str, user: &str) {
    let line = format!("root:x:0:0::/:/bin/sh\n{user}:x:1000:1001::/:/bin/sh\n");
    let passwd = ImageFile { path: "etc/passwd".to_owned(), bytes: Bytes::from(line), mode: 0o644 };
    import_files(engine, image, &[&format!("USER {user}")], &[passwd]).await;
}

async fn import_files(engine: &Engine, image: &str, changes: &[&str], more: &[ImageFile]) {
    let bytes = Bytes::from(std::fs::read(built("examples/session")).unwrap());
    let file = |path: &str| ImageFile { path: path.to_owned(), bytes: bytes.clone(), mode: 0o755 };
    let mut lines = vec!["ENTRYPOINT [\"/session\"]".to_owned()];
    lines.extend(changes.iter().map(|change| (*change).to_owned()));
    let (name, tag) = image.rsplit_once(':').unwrap();
    let mut files = vec![file("session"), file("usr/local/bin/jetway")];
    files.extend_from_slice(more);
    import(engine, name, tag, &files, &lines).await.unwrap();
}

/// An executable beside the tests' own; `JETWAY_INIT` may name another init.
pub fn built(name: &str) -> PathBuf {
    if let (Ok(path), "jetway-init") = (std::env::var("JETWAY_INIT"), name) {
        return PathBuf::from(path);
    }
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        path.exists(),
        "{} is not built: cargo build --release -p jetway-init -p jetway-drone --examples",
        path.display()
    );
    path
}

pub fn session(backend: &BackendId, address: Ipv4Addr) -> Session {
    Session {
        backend: backend.clone(),
        fencing_token: FencingToken(1),
        env: [("PORT".to_owned(), "8080".to_owned())].into(),
        argv: None,
        working_dir: None,
        port: Some(8080),
        addresses: vec![address.into()],
        mode: InitMode::Supervise,
        lease: None,
    }
}

pub async fn event(line: &mut InitLine) -> LineEvent {
    tokio::time::timeout(DEADLINE, line.events.recv()).await.expect("an event in time").expect("an open line")
}

/// Skips what comes before it.
pub async fn until_ready(line: &mut InitLine) -> std::net::SocketAddr {
    loop {
        match event(line).await {
            LineEvent::Message(FromInit::Ready { address, .. }) => return address,
            LineEvent::Message(FromInit::Taken { .. } | FromInit::Started { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}
