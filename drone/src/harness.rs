//! For tests: an agent over the fake engine, registered with term 1, in a directory of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jetway_protocol::attach::ToProxy;
use jetway_protocol::controller_api::{Capacity, Registered};
use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, BootId, FencingToken, GrantId, InstallationId, ProxyId, Term};
use jetway_protocol::key::Key;
use jetway_protocol::lease::LeaseTerms;
use jetway_protocol::spec::{BackendSpec, Executable};
use jetway_protocol::status::{End, Status};
use jetway_service::lifecycle::Lifecycle;
pub use jetway_testkit::soon as eventually;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::agent::{Agent, Parts};
use crate::backend::{Asking, Backend, begin};
use crate::books::streams::Stream;
use crate::controllers::membership::Membership;
use crate::lease::{self, Lease};
use crate::runtime::fake::{Fake, FakeRuntime, Script};
use crate::store::data_dir::DataDir;
use crate::store::data_dir::tests::TestDir;
use crate::{adoption, reconcile, warm};

pub struct Harness {
    pub agent: Arc<Agent>,
    pub fake: Arc<Fake>,
    pub dir: Arc<TestDir>,
    pub lifecycle: Lifecycle,
    pub clock: TestClock,
    settings: warm::Settings,
}

/// A boot-time clock that goes with tokio's, and stands still or jumps where a test says so.
#[derive(Clone)]
pub struct TestClock {
    pub boot_id: BootId,
    began: tokio::time::Instant,
    ahead_ms: Arc<AtomicU64>,
}

impl TestClock {
    fn new() -> Self {
        let (boot_id, began) = (BootId::random(), tokio::time::Instant::now());
        Self { boot_id, began, ahead_ms: Arc::new(AtomicU64::new(1_000_000)) }
    }

    pub fn now(&self) -> Duration {
        self.began.elapsed() + Duration::from_millis(self.ahead_ms.load(Ordering::SeqCst))
    }

    /// What a pause of the whole agent looks like to it: time has passed, and no timer of its own has run out.
    pub fn jump(&self, by: Duration) {
        self.ahead_ms.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    fn reader(&self) -> lease::BootClock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

impl Harness {
    pub fn new(script: Script) -> Self {
        Self::with_sandboxes(script, 0)
    }

    pub fn with_sandboxes(script: Script, sandboxes: u32) -> Self {
        let calm = warm::Calm::default();
        Self::with(script, warm::Settings { sandboxes, memory_bytes: None, calm })
    }

    pub fn with(script: Script, settings: warm::Settings) -> Self {
        let lifecycle = Lifecycle::new();
        let fake = Fake::new(script, lifecycle.clone());
        let dir = Arc::new(TestDir::new());
        Self::over(fake, dir, lifecycle, TestClock::new(), Some(registered()), settings)
    }

    /// The first registration, with a lease of this length, was sent now.
    pub fn leased(script: Script, length: Duration) -> Self {
        let lifecycle = Lifecycle::new();
        let fake = Fake::new(script, lifecycle.clone());
        let registered = leased(Term(1), length);
        let dir = Arc::new(TestDir::new());
        let calm = warm::Calm::default();
        let settings = warm::Settings { sandboxes: 0, memory_bytes: None, calm };
        Self::over(fake, dir, lifecycle, TestClock::new(), Some(registered), settings)
    }

    fn over(
        fake: Arc<Fake>,
        dir: Arc<TestDir>,
        lifecycle: Lifecycle,
        clock: TestClock,
        registered: Option<Registered>,
        settings: warm::Settings,
    ) -> Self {
        fake.script(|script| script.boot_id = Some(clock.boot_id));
        let (data_dir, identity) = DataDir::open(dir.path()).unwrap();
        let membership = Arc::new(Membership::default());
        let lease = Arc::new(Lease::open(dir.path(), clock.boot_id, clock.reader()));
        if let Some(registered) = registered {
            lease.registered(&registered, lease.now());
            membership.set_registered(registered);
        }
        let parts = Parts {
            id: identity.id,
            boot_id: clock.boot_id,
            netns: "net:[1]".to_owned(),
            capacity: capacity(),
            data_dir,
            runtime: Arc::new(FakeRuntime(fake.clone())),
            lifecycle: lifecycle.clone(),
            membership,
            lease,
            warm: settings,
            process: uuid::Uuid::new_v4(),
        };
        let agent = Arc::new(Agent::new(parts).unwrap());
        lifecycle.spawn_until_stopped(reconcile::follow_hints(agent.clone()));
        lifecycle.spawn_until_stopped(warm::keeper::keep(agent.clone()));
        Self { agent, fake, dir, lifecycle, clock, settings }
    }

    /// `kill -9` of the agent, and its next start: the containers go on meanwhile.
    pub async fn restarted(self, change: impl FnOnce(&mut Script)) -> Self {
        self.restarted_as(Some(registered()), change).await
    }

    /// `registered`: what a controller says to it before it adopts, if one says anything.
    pub async fn restarted_as(
        self,
        registered: Option<Registered>,
        change: impl FnOnce(&mut Script),
    ) -> Self {
        let Self { agent, fake, dir, lifecycle, clock, settings } = self;
        assert!(lifecycle.stop().await);
        drop(agent);
        let lifecycle = Lifecycle::new();
        let fake = fake.agent_died(lifecycle.clone());
        fake.script(change);
        let next = Self::over(fake, dir, lifecycle, clock, registered, settings);
        adoption::adopt_all(&next.agent).unwrap();
        next
    }

    pub fn put(&self, id: &str, change: impl FnOnce(&mut BackendSpec)) -> Arc<Backend> {
        self.put_as(id, put_of(change))
    }

    /// One that holds a key, under the lease unless `change` says `keep`.
    pub fn put_keyed(&self, id: &str, change: impl FnOnce(&mut BackendSpec)) -> Arc<Backend> {
        self.put_as(id, keyed(put_of(change)))
    }

    fn put_as(&self, id: &str, put: PutBackend) -> Arc<Backend> {
        let reservation = self.agent.admission.admit(&put.spec.executable).unwrap();
        let tenure = lease::is_for(&put).then(|| self.agent.lease.take().unwrap());
        begin::put(&self.agent, id.parse().unwrap(), put, reservation, tenure).unwrap()
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

    /// Containers are removed after their end was told.
    pub async fn nothing_is_left(&self) {
        let is_so = || self.fake.containers().is_empty() && self.agent.holders.slots.is_empty();
        eventually("nothing is left behind", is_so).await;
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
        lease: None,
    }
}

pub fn leased(term: Term, length: Duration) -> Registered {
    let lease = Some(LeaseTerms::of_length(length).unwrap());
    Registered { term, lease, ..registered() }
}

pub fn capacity() -> Capacity {
    Capacity {
        cpus: 4.0,
        memory_bytes: 1 << 40,
        backends_max: 100,
        mounts: false,
        networks: Vec::new(),
        no_disk_limit: true,
    }
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
        or_never: false,
    }
}

pub fn keyed(put: PutBackend) -> PutBackend {
    let key = Key { name: "doc".to_owned(), namespace: String::new(), tag: String::new() };
    PutBackend { key: Some(key), ..put }
}

pub fn grant(id: u64) -> Grant {
    Grant {
        id: GrantId(id),
        user: Some("ann".to_owned()),
        auth: "{}".to_owned(),
        secret: "s".to_owned(),
        allowed_origins: Vec::new(),
    }
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
