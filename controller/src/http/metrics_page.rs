//! One scrape of metrics: each family with its values as they are now. The values live where they
//! are counted; names, escaping and format are `prometheus-client`'s. A family without a value is
//! left out.

use std::fmt::Debug;
use std::sync::atomic::AtomicU64;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::{EncodeCounterValue, EncodeGaugeValue, prometheus_text};
use prometheus_client::metrics::counter::{self, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{self, Gauge};
use prometheus_client::registry::Registry;

pub type Labels = Vec<(&'static str, String)>;

pub struct Page(Registry);

impl Page {
    pub fn new() -> Self {
        Self(Registry::with_prefix("jetway"))
    }

    pub fn gauge<N>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, N)>)
    where
        N: EncodeGaugeValue + Debug + Send + Sync + 'static,
        AtomicU64: gauge::Atomic<N>,
    {
        let family = Family::<Labels, Gauge<N, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, without_stop(help), family);
    }

    /// `name` is without `_total`, which the format adds.
    pub fn counter<N>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, N)>)
    where
        N: EncodeCounterValue + Debug + Send + Sync + 'static,
        AtomicU64: counter::Atomic<N>,
    {
        let family = Family::<Labels, Counter<N, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, without_stop(help), family);
    }
}

/// The registry ends each text with a full stop of its own.
fn without_stop(help: &str) -> &str {
    help.trim_end_matches('.')
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let mut text = String::new();
        match prometheus_text::encode(&mut text, &self.0) {
            Ok(()) => ([(header::CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_page_is_prometheus_text() {
        let mut page = Page::new();
        let said = "a \"quote\"\nand a line".to_owned();
        page.counter("events", "Events.", [(vec![("of", said)], 2_u64)]);
        page.gauge("age_seconds", "Age.", [(vec![], 0.5_f64)]);
        page.gauge::<u64>("absent", "Left out.", []);
        let body = page.into_response().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "# HELP jetway_events_total Events.\n\
             # TYPE jetway_events_total counter\n\
             jetway_events_total{of=\"a \\\"quote\\\"\\nand a line\"} 2\n\
             # HELP jetway_age_seconds Age.\n\
             # TYPE jetway_age_seconds gauge\n\
             jetway_age_seconds 0.5\n"
        );
    }
}
