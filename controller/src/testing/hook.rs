//! An operator's hook that does as told, and counts its questions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use jetway_service::lifecycle::Lifecycle;
use tokio::net::TcpListener;

/// Long enough for a crowd to come meanwhile.
const THINKS: Duration = Duration::from_millis(100);

pub struct Hook {
    pub url: String,
    said: Arc<Said>,
    lifecycle: Lifecycle,
}

struct Said {
    status: AtomicU16,
    questions: AtomicUsize,
}

impl Hook {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/allowed", listener.local_addr().unwrap());
        let said = Arc::new(Said { status: AtomicU16::new(200), questions: AtomicUsize::new(0) });
        let router = Router::new().route("/allowed", get(answer)).with_state(said.clone());
        let lifecycle = Lifecycle::new();
        lifecycle.spawn_until_stopped(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self { url, said, lifecycle }
    }

    pub fn says(&self, status: u16) {
        self.said.status.store(status, Ordering::Relaxed);
    }

    pub fn questions(&self) -> usize {
        self.said.questions.load(Ordering::Relaxed)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.lifecycle.token().cancel();
    }
}

async fn answer(State(said): State<Arc<Said>>, Query(query): Query<HashMap<String, String>>) -> StatusCode {
    assert!(query.contains_key("domain"), "{query:?}");
    said.questions.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(THINKS).await;
    StatusCode::from_u16(said.status.load(Ordering::Relaxed)).unwrap()
}
