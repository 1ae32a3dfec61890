//! Logs on stderr: text on a terminal, JSON where `JETWAY_LOG_FORMAT=json`; filtered by `JETWAY_LOG` (default `info`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Sets the process's subscriber; a second call changes nothing.
pub fn start(default_filter: &str) {
    let filter = EnvFilter::try_from_env("JETWAY_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A terminal that was closed must not end the task that logs.
    let builder = builder.log_internal_errors(false);
    // Colours are for people: a log file gets none.
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    let _already_set = if is_json() { builder.json().try_init() } else { builder.compact().try_init() };
}

/// Why the process ends, as the last line on stderr, whatever is filtered: what an operator pastes into a search box, or
/// a line of JSON like the others where somebody collects those.
pub fn last_words(text: &str) {
    if is_json() {
        json_line(std::io::stderr, text);
    } else {
        eprintln!("jetway: {text}");
    }
}

fn is_json() -> bool {
    std::env::var("JETWAY_LOG_FORMAT").is_ok_and(|format| format == "json")
}

fn json_line<W>(writer: W, text: &str)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let subscriber = tracing_subscriber::fmt().with_writer(writer).with_target(false).json().finish();
    tracing::subscriber::with_default(subscriber, || tracing::error!("{text}"));
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::io::Write;
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_last_line_is_json_like_the_others_whatever_is_in_it() {
        let written = Written::default();
        let writer = written.clone();
        json_line(move || writer.clone(), "cannot start: \"x\"\nsecond");
        let bytes = written.0.lock().clone();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["fields"]["message"], "cannot start: \"x\"\nsecond");
        assert!(line["timestamp"].is_string());
    }
}
