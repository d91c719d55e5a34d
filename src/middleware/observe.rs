//! Request metrics, by matched path: a path with an identifier in it would be a new series for every job.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};
use metrics::{counter, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

const SECONDS: &str = "antigen_http_request_seconds";

/// Upper edges in seconds: from a cached page to a `Prefer: wait` of a minute.
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];

/// The recorder of this process, installed on first use.
pub fn prometheus() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(SECONDS.to_owned()), &BUCKETS)
            .expect("the list of buckets is not empty");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        // Another recorder can only be there if a program embeds this library; then its metrics are its own
        // business.
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed: /metrics stays empty");
        }
        metrics::describe_histogram!(SECONDS, metrics::Unit::Seconds, "Time to the first byte of the answer");
        metrics::describe_counter!("antigen_http_requests_total", "Answered requests");
        handle
    })
}

/// Counts and times every request.
pub(super) async fn count_requests(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let begun = Instant::now();
    let response = next.run(request).await;
    let took = begun.elapsed();
    record(&path, method.as_str(), response.status().as_u16(), took);
    tracing::debug!(status = response.status().as_u16(), took_ms = took.as_millis() as u64, "answered");
    response
}

fn record(path: &str, method: &str, status: u16, took: Duration) {
    let labels = [("path", path.to_owned()), ("method", method.to_owned()), ("status", status.to_string())];
    counter!("antigen_http_requests_total", &labels).increment(1);
    histogram!(SECONDS, &labels[..2]).record(took.as_secs_f64());
}
