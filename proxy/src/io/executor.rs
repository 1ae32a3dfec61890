//! Where hyper's HTTP/2 runs the parts of a connection: as the process's own tasks, none of which
//! outlives its connection.

use hyper::rt::Executor;
use jetway_service::lifecycle::Lifecycle;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
pub struct Tasks {
    pub lifecycle: Lifecycle,
    pub end: CancellationToken,
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, part: F) {
        let end = self.end.clone();
        self.lifecycle.spawn(async move {
            end.run_until_cancelled(part).await;
        });
    }
}
