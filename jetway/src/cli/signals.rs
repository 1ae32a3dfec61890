//! SIGTERM and SIGINT from a process's first moment: the first asks for an orderly stop, the second ends it at once.

use std::future::Future;
use std::io;

use jetway_service::lifecycle::Lifecycle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Exit status after the second signal, as a shell's for SIGINT.
const EXIT_AT_ONCE: i32 = 130;

#[derive(Debug, Clone)]
pub struct StopSignals {
    first: watch::Receiver<Option<&'static str>>,
}

impl StopSignals {
    /// From here on a signal no longer kills the process.
    pub fn watch() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (tell, first) = watch::channel(None);
        // For the whole life of the process; no stop waits for it.
        Lifecycle::new().spawn(listen(terminate, interrupt, tell));
        Ok(Self { first })
    }

    /// The first signal's name, when it comes or if it has come.
    pub async fn first(&self) -> &'static str {
        let mut first = self.first.clone();
        match first.wait_for(Option::is_some).await {
            Ok(name) => name.unwrap_or("a signal"),
            Err(_) => std::future::pending().await,
        }
    }

    /// The outcome of a start, or `None` after a signal; what had begun is then stopped.
    pub async fn or_stopped<T>(&self, lifecycle: &Lifecycle, start: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            started = start => Some(started),
            _ = self.first() => {
                lifecycle.stop().await;
                None
            }
        }
    }
}

async fn listen(mut terminate: Signal, mut interrupt: Signal, tell: watch::Sender<Option<&'static str>>) {
    loop {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if tell.borrow().is_some() {
            eprintln!("stopping at once; the next start takes up what is left");
            std::process::exit(EXIT_AT_ONCE);
        }
        tell.send_replace(Some(name));
    }
}
