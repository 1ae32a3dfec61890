//! An engine made of a map, for tests: it reaches states that a real one reaches rarely, such as calls that hang, calls
//! that fail, and inits that say nothing. Its containers run nothing; each "init" follows its [`Script`].

// Said in full, so that tests elsewhere can take this file as their own.
#[path = "fake/hands.rs"]
mod hands;
#[path = "fake/inits.rs"]
mod inits;
#[path = "fake/real.rs"]
mod real;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use jetway_protocol::ids::{BackendId, SlotId};
use jetway_protocol::spec::Executable;
use jetway_service::lifecycle::Lifecycle;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{broadcast, mpsc, watch};

pub use super::fake_script::{Application, Container, Death, Sandbox, Script};
use super::{
    ContainerStatus, CreateRequest, Found, Image, ImageError, InitLine, LineEvent, LogQuery, Runtime,
    RuntimeError, Subnet,
};

/// What is answered late.
const LATE: Duration = Duration::from_secs(5);

pub struct Fake {
    inner: Mutex<Inner>,
    /// Rises with every change, for tests that wait for one.
    changes: watch::Sender<u64>,
    images: watch::Sender<u64>,
    hints: broadcast::Sender<SlotId>,
    losses: watch::Sender<u64>,
    lifecycle: Lifecycle,
}

#[derive(Default)]
struct Inner {
    script: Script,
    containers: HashMap<SlotId, Container>,
    sandboxes: HashMap<SlotId, Sandbox>,
    lines: HashMap<SlotId, mpsc::Sender<LineEvent>>,
    calls: Vec<String>,
    /// Whose application was executed, once for each time.
    executions: Vec<BackendId>,
    real: Option<real::RealInits>,
}

impl Fake {
    pub fn new(script: Script, lifecycle: Lifecycle) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner { script, ..Inner::default() }),
            changes: watch::Sender::new(0),
            images: watch::Sender::new(0),
            hints: broadcast::Sender::new(64),
            losses: watch::Sender::new(0),
            lifecycle,
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    fn called(&self, call: &str) -> Script {
        let script = {
            let mut inner = self.inner();
            inner.calls.push(call.to_owned());
            inner.script.clone()
        };
        self.changes.send_modify(|count| *count += 1);
        script
    }

    fn is_up(&self) -> Result<(), RuntimeError> {
        let down = || RuntimeError::Unreachable("connection refused".to_owned());
        if self.inner().script.engine_is_down { Err(down()) } else { Ok(()) }
    }

    fn answers_500(&self, call: &str) -> Result<(), RuntimeError> {
        let mut inner = self.inner();
        let cut_off = &mut inner.script.cuts_off;
        if let Some(at) = cut_off.iter().position(|cut_off| *cut_off == call) {
            cut_off.remove(at);
            return Err(RuntimeError::Unreachable("connection reset by peer".to_owned()));
        }
        let failing = &mut inner.script.answers_500;
        let Some(at) = failing.iter().position(|failing| *failing == call) else { return Ok(()) };
        failing.remove(at);
        Err(RuntimeError::Engine("context deadline exceeded".to_owned()))
    }

    fn say(&self, slot: SlotId, event: LineEvent) {
        if let Some(line) = self.inner().lines.get(&slot) {
            let _full_or_dropped = line.try_send(event);
        }
    }
}

/// For [`Runtime::open_line`], whose task needs the fake for longer than a borrow.
pub struct FakeRuntime(pub Arc<Fake>);

#[async_trait]
impl Runtime for FakeRuntime {
    async fn ensure_image(&self, _: &Executable) -> Result<Image, ImageError> {
        let script = self.0.called("ensure_image");
        if let Err(error) = self.0.is_up() {
            let (image, reason) = ("image".to_owned(), error.to_string());
            return Err(ImageError::Unreachable { image, reason });
        }
        if script.pull_hangs {
            std::future::pending::<()>().await;
        }
        script.image_error.map_or_else(
            || {
                let (id, user) = (script.image_id, String::new());
                Ok(Image { id, entrypoint: Vec::new(), cmd: Vec::new(), user, stop_signal: 15, pulled: None })
            },
            Err,
        )
    }

    async fn create(&self, request: &CreateRequest) -> Result<(), RuntimeError> {
        let script = self.0.called("create");
        self.0.is_up()?;
        if script.create_hangs {
            std::future::pending::<()>().await;
        }
        if let Some(error) = script.create_error {
            return Err(error);
        }
        if self.0.inner().containers.contains_key(&request.slot) {
            return Ok(());
        }
        let is_running = |id| {
            self.0
                .sandboxes()
                .iter()
                .any(|one| one.id == id && matches!(one.status, ContainerStatus::Running { .. }))
        };
        if request.sandbox.is_some_and(|id| !is_running(id)) {
            return Err(RuntimeError::SandboxGone);
        }
        self.0.called("made");
        let container = Container {
            slot: request.slot,
            status: ContainerStatus::Created,
            address: request.address,
            nonce: request.slot.to_string(),
            session: None,
            claims: Vec::new(),
            ahead: None,
            stops: Vec::new(),
            backend: request.backend.clone(),
            sandbox: request.sandbox,
            image: request.image.id.clone(),
        };
        self.0.put_container(request.slot, container);
        self.0.answers_500("create")
    }

    async fn make_sandbox(&self, sandbox: SlotId, address: Ipv4Addr) -> Result<(), RuntimeError> {
        let script = self.0.called("make_sandbox");
        tokio::time::sleep(script.engine_takes).await;
        if let Some(error) = script.sandbox_error {
            return Err(error);
        }
        let status = ContainerStatus::Running { paused: false, address: Some(IpAddr::V4(address)) };
        self.0.inner().sandboxes.insert(sandbox, Sandbox { id: sandbox, address, status });
        self.0.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn remove_sandbox(&self, sandbox: SlotId) -> Result<(), RuntimeError> {
        self.0.called("remove_sandbox");
        let joined = |container: &Container| container.sandbox == Some(sandbox);
        assert!(!self.0.containers().iter().any(joined), "a container is still in it");
        self.0.inner().sandboxes.remove(&sandbox);
        self.0.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn list_sandboxes(&self) -> Result<Vec<Found>, RuntimeError> {
        let found = |sandbox: Sandbox| {
            let (slot, status) = (sandbox.id, sandbox.status);
            Found { slot, backend: None, sandbox: None, status }
        };
        Ok(self.0.sandboxes().into_iter().map(found).collect())
    }

    async fn start(&self, slot: SlotId) -> Result<IpAddr, RuntimeError> {
        let script = self.0.called("start");
        self.0.is_up()?;
        tokio::time::sleep(script.engine_takes).await;
        let (address, is_new) = {
            let mut inner = self.0.inner();
            let container = inner.containers.get_mut(&slot).ok_or(RuntimeError::Absent)?;
            let is_new = container.status == ContainerStatus::Created;
            if let ContainerStatus::Exited { .. } = container.status {
                return Err(RuntimeError::Refused("a slot runs once".to_owned()));
            }
            container.status = ContainerStatus::Running { paused: false, address: None };
            (script.address.unwrap_or(IpAddr::V4(container.address)), is_new)
        };
        if is_new {
            self.0.start_really(slot);
            self.0.hello(slot);
        }
        self.0.answers_500("start")?;
        Ok(address)
    }

    async fn inspect(&self, slot: SlotId) -> Result<ContainerStatus, RuntimeError> {
        if self.0.called("inspect").inspect_fails {
            return Err(RuntimeError::Engine("no answer".to_owned()));
        }
        self.0.is_up()?;
        self.0.look_really(slot);
        let (found, is_late) = {
            let mut inner = self.0.inner();
            let late = inner.script.late_looks.checked_sub(1);
            inner.script.late_looks = late.unwrap_or(0);
            let status = inner.containers.get(&slot).map(|container| container.status.clone());
            let is_forgotten = inner.script.forgets_starts && status.is_some();
            let found = if is_forgotten { Some(ContainerStatus::Created) } else { status };
            (found.unwrap_or(ContainerStatus::Absent), late.is_some())
        };
        if is_late {
            tokio::time::sleep(LATE).await;
        }
        Ok(found)
    }

    async fn kill(&self, slot: SlotId, signal: i32) -> Result<(), RuntimeError> {
        let script = self.0.called(&format!("kill {signal}"));
        if script.kill_hangs {
            std::future::pending::<()>().await;
        }
        if script.forgets_starts {
            return Err(RuntimeError::Refused("it is not running".to_owned()));
        }
        if self.0.kill_really(slot) {
            return Ok(());
        }
        if signal == 9 || script.application != Application::IgnoresStop {
            self.0.exits(slot, 128 + signal, false);
        }
        Ok(())
    }

    async fn remove(&self, slot: SlotId) -> Result<(), RuntimeError> {
        if self.0.called("remove").remove_fails {
            return Err(RuntimeError::Engine("device or resource busy".to_owned()));
        }
        self.0.remove_really(slot);
        self.0.inner().containers.remove(&slot);
        self.0.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        self.0.called("list");
        let inner = self.0.inner();
        let found = |(slot, container): (&SlotId, &Container)| Found {
            slot: *slot,
            backend: container.backend.clone(),
            sandbox: container.sandbox,
            status: container.status.clone(),
        };
        Ok(inner.containers.iter().map(found).collect())
    }

    async fn output_tail(&self, _: SlotId, _: usize) -> Result<String, RuntimeError> {
        self.0.called("output_tail");
        Ok("the last words\0".to_owned())
    }

    async fn logs(
        &self,
        slot: SlotId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<Bytes, RuntimeError>>, RuntimeError> {
        let script = self.0.called("logs");
        self.0.is_up()?;
        if !self.0.inner().containers.contains_key(&slot) {
            return Err(RuntimeError::Absent);
        }
        let time = if query.timestamps { "2026-01-01T00:00:00.000000000Z " } else { "" };
        let lines = script.printed.into_iter().map(move |line| Ok(Bytes::from(format!("{time}{line}\n"))));
        let skipped = query.tail.map_or(0, |tail| lines.len().saturating_sub(tail.try_into().unwrap()));
        let lines = stream::iter(lines.skip(skipped));
        if script.output_breaks {
            let broken = Err(RuntimeError::Engine("unexpected EOF".to_owned()));
            return Ok(lines.take(1).chain(stream::iter([broken])).boxed());
        }
        Ok(lines.boxed())
    }

    async fn ping(&self) -> Result<(), RuntimeError> {
        self.0.called("ping");
        self.0.is_up()
    }

    fn losses(&self) -> watch::Receiver<u64> {
        self.0.losses.subscribe()
    }

    fn hints(&self) -> broadcast::Receiver<SlotId> {
        self.0.hints.subscribe()
    }

    fn subnet(&self) -> Subnet {
        let first = if self.0.inner().script.is_on_loopback { 127 } else { 10 };
        let at = |last| Ipv4Addr::new(first, 64, 0, last);
        Subnet { network: at(0), prefix: 24, gateway: at(1) }
    }

    fn images(&self) -> Vec<String> {
        Vec::new()
    }

    fn image_id(&self, _: &str) -> Option<String> {
        let inner = self.0.inner();
        inner.script.image_is_known.then(|| inner.script.image_id.clone())
    }

    fn image_changes(&self) -> watch::Receiver<u64> {
        self.0.images.subscribe()
    }

    async fn open_line_of(&self, slot: SlotId, nonce: Option<String>) -> Result<InitLine, RuntimeError> {
        self.0.called(&format!("open_line of {}", nonce.unwrap_or_default()));
        self.open_line(slot).await
    }

    async fn open_line(&self, slot: SlotId) -> Result<InitLine, RuntimeError> {
        if self.0.called("open_line").open_line_fails {
            return Err(RuntimeError::Engine("too many open files".to_owned()));
        }
        if let Some(line) = self.0.open_real_line(slot) {
            return line.map_err(|error| RuntimeError::Engine(error.to_string()));
        }
        let (sender, events) = mpsc::channel(64);
        let (commands, mut heard) = mpsc::channel(16);
        self.0.inner().lines.insert(slot, sender);
        let fake = self.0.clone();
        self.0.lifecycle.spawn_until_stopped(async move {
            while let Some(message) = heard.recv().await {
                fake.hears(slot, message);
            }
        });
        self.0.hello(slot);
        Ok(InitLine { events, commands })
    }
}
