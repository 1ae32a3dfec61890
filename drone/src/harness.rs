//! For tests: an agent over the fake engine, registered with term 1, in a directory of its own.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::attach::ToProxy;
use jetway_protocol::controller_api::{Capacity, Registered};
use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, BootId, FencingToken, GrantId, InstallationId, ProxyId, Term};
use jetway_protocol::spec::{BackendSpec, Executable};
use jetway_protocol::status::{End, Status};
use jetway_service::lifecycle::Lifecycle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::agent::{Agent, Parts};
use crate::backend::{self, Asking, Backend};
use crate::data_dir::DataDir;
use crate::data_dir::tests::TestDir;
use crate::membership::Membership;
use crate::runtime::fake::{Fake, FakeRuntime, Script};
use crate::streams::Stream;
use crate::{adoption, reconcile};

pub struct Harness {
    pub agent: Arc<Agent>,
    pub fake: Arc<Fake>,
    pub dir: Arc<TestDir>,
    pub lifecycle: Lifecycle,
}

impl Harness {
    pub fn new(script: Script) -> Self {
        let lifecycle = Lifecycle::new();
        let fake = Fake::new(script, lifecycle.clone());
        Self::over(fake, Arc::new(TestDir::new()), lifecycle)
    }

    fn over(fake: Arc<Fake>, dir: Arc<TestDir>, lifecycle: Lifecycle) -> Self {
        let (data_dir, identity) = DataDir::open(dir.path()).unwrap();
        let membership = Arc::new(Membership::default());
        membership.set_registered(registered());
        let parts = Parts {
            id: identity.id,
            boot_id: BootId::random(),
            netns: "net:[1]".to_owned(),
            capacity: capacity(),
            data_dir,
            runtime: Arc::new(FakeRuntime(fake.clone())),
            lifecycle: lifecycle.clone(),
            membership,
        };
        let agent = Arc::new(Agent::new(parts).unwrap());
        lifecycle.spawn_until_stopped(reconcile::follow_hints(agent.clone()));
        Self { agent, fake, dir, lifecycle }
    }

    /// `kill -9` of the agent, and its next start: the containers go on meanwhile.
    pub async fn restarted(self, change: impl FnOnce(&mut Script)) -> Self {
        let Self { agent, fake, dir, lifecycle } = self;
        assert!(lifecycle.stop().await);
        drop(agent);
        let lifecycle = Lifecycle::new();
        let fake = fake.agent_died(lifecycle.clone());
        fake.script(change);
        let next = Self::over(fake, dir, lifecycle);
        adoption::adopt_all(&next.agent).unwrap();
        next
    }

    pub fn put(&self, id: &str, change: impl FnOnce(&mut BackendSpec)) -> Arc<Backend> {
        let put = put_of(change);
        let reservation = self.agent.admission.admit(&put.spec.executable).unwrap();
        backend::put(&self.agent, id.parse().unwrap(), put, reservation).unwrap()
    }

    /// A proxy's stream, and an ask on it with the first grant.
    pub async fn ask(&self, backend: &Backend, proxy: ProxyId) -> (Arc<Stream>, mpsc::Receiver<ToProxy>) {
        let (stream, pushes) = self.attach(proxy).await;
        let asking = Asking { stream: stream.clone(), ask: 1, grant: GrantId(1) };
        let _ended = backend.ask(asking).await;
        (stream, pushes)
    }

    /// A proxy's stream, after its first message.
    pub async fn attach(&self, proxy: ProxyId) -> (Arc<Stream>, mpsc::Receiver<ToProxy>) {
        let (stream, mut pushes) = self.agent.attach(proxy, ToProxy::Ping);
        assert_eq!(pushes.recv().await, Some(ToProxy::Ping));
        (stream, pushes)
    }

    pub fn backend(&self, id: &str) -> Arc<Backend> {
        self.agent.backend(&id.parse::<BackendId>().unwrap()).unwrap()
    }
}

pub fn registered() -> Registered {
    Registered {
        term: Term(1),
        installation: InstallationId::random(),
        cluster: "localhost:9090".parse().unwrap(),
        draining: false,
        heartbeat_ms: 1000,
        lease_ms: 600_000,
    }
}

pub fn capacity() -> Capacity {
    Capacity { cpus: 4.0, memory_bytes: 1 << 40, backends_max: 100, mounts: false, networks: Vec::new() }
}

pub fn put_of(change: impl FnOnce(&mut BackendSpec)) -> PutBackend {
    let mut spec = BackendSpec::of(Executable::of_image("image"));
    change(&mut spec);
    PutBackend {
        term: Term(1),
        fencing_token: FencingToken(9),
        key: None,
        spec,
        grant: Some(grant(1)),
        static_token: None,
        timeline: Vec::new(),
    }
}

pub fn grant(id: u64) -> Grant {
    Grant { id: GrantId(id), user: Some("ann".to_owned()), auth: "{}".to_owned(), secret: "s".to_owned() }
}

/// Waits for a status, at most an hour of (paused) time.
pub async fn reaches(backend: &Backend, status: Status) {
    let mut follow = backend.follow();
    let reached =
        timeout(Duration::from_secs(3600), follow.wait_for(|now| now.state.status() >= status)).await;
    assert!(matches!(reached, Ok(Ok(_))), "stays {} and is not {status}", backend.status());
}

/// The end, once it has come.
pub async fn end_of(backend: &Backend) -> End {
    reaches(backend, Status::Terminated).await;
    backend.snapshot().history.last().unwrap().end.clone().unwrap()
}
