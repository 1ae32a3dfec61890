//! SIGTERM, SIGINT and SIGHUP from a process's first moment: the first asks for an orderly stop,
//! the second ends it at once. A SIGHUP that is ignored, as under nohup, stays so.

use std::future::Future;
use std::io::{self, Write};

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
        let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = if ignores_hangup(&own) { None } else { Some(signal(SignalKind::hangup())?) };
        let (tell, first) = watch::channel(None);
        // For the whole life of the process; no stop waits for it.
        Lifecycle::new().spawn(listen(terminate, interrupt, hangup, tell));
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

/// By `SigIgn` in proc(5): a mask in which the lowest bit is signal 1.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

async fn listen(
    mut terminate: Signal,
    mut interrupt: Signal,
    mut hangup: Option<Signal>,
    tell: watch::Sender<Option<&'static str>>,
) {
    loop {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = next(&mut hangup) => "SIGHUP",
        };
        if tell.borrow().is_some() && name == "SIGHUP" {
            // A terminal that closes sends one, and the shell in it another.
            continue;
        }
        if tell.borrow().is_some() {
            let word = "stopping at once; the next start takes up what is left";
            let _nobody_reads_it = writeln!(io::stderr(), "{word}");
            std::process::exit(EXIT_AT_ONCE);
        }
        tell.send_replace(Some(name));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nohup_is_seen() {
        assert!(super::ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n"));
        assert!(!super::ignores_hangup("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n"));
        assert!(!super::ignores_hangup(""));
    }
}
