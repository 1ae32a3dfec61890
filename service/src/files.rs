//! How many files this process may open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// A login's soft limit is meant for programs that still use `select(2)`; each connection here is a file, and each tunnel two. Returns what is
/// allowed from here on; `None`: as many as there are.
pub fn raise_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let before = limit.current;
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays as it is");
            return before;
        }
    }
    limit.current
}

/// The present limit; `None`: there is none.
pub fn limit() -> Option<usize> {
    getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok())
}
