//! `/livez`, `/readyz`, `/metrics`: for those who operate the service.

use std::path::Path;

use axum::http::HeaderValue;
use axum::{
    Json as Body,
    extract::State,
    http::header::{CONTENT_TYPE, RETRY_AFTER},
    response::{IntoResponse, Response},
};
use metrics::gauge;

use crate::app::App;
use crate::db;
use crate::db::JobState;
use crate::error::{ApiResult, Kind, Problem, ProblemBody};
use crate::middleware::prometheus;
use crate::views::{Check, Health};

/// Free space under which no new work should arrive: room for one adapter job's scratch files.
const MIN_FREE_BYTES: u64 = 256 << 20;

/// Answers whenever the process runs.
#[utoipa::path(get, path = "/livez", tag = "operation", responses((status = 200, description = "It does", body = Health)))]
pub async fn livez() -> Body<Health> {
    Body(Health { status: "ok".to_owned(), checks: Vec::new() })
}

/// Checks that the service can take work: database, store, disk.
#[utoipa::path(
    get, path = "/readyz", tag = "operation",
    responses(
        (status = 200, description = "It can", body = Health),
        (status = 503, description = "A part does not answer; the detail names it", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn readyz(State(app): State<App>) -> ApiResult<Body<Health>> {
    app.db.check_ready().await.map_err(|error| not_ready("database", &error))?;
    app.store.check_ready().await.map_err(|error| not_ready("store", &error))?;
    let dir = app.config.store_dir();
    let free = tokio::task::spawn_blocking(move || probe_disk(&dir)).await.map_err(Problem::internal)?;
    let free = free.map_err(|error| not_ready("disk", &error))?;
    if free < MIN_FREE_BYTES {
        return Err(not_ready("disk", &format!("expected {MIN_FREE_BYTES} free bytes, found {free}")));
    }
    let check = |name: &str, detail: String| Check { name: name.to_owned(), detail };
    let checks = vec![
        check("database", "answers and is migrated".to_owned()),
        check("store", "lists and takes files".to_owned()),
        check("disk", format!("{free} bytes free")),
    ];
    Ok(Body(Health { status: "ok".to_owned(), checks }))
}

/// Writes a file, which a read-only or full disk refuses, and asks for the free space.
fn probe_disk(dir: &Path) -> std::io::Result<u64> {
    tempfile::NamedTempFile::new_in(dir)?;
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn not_ready(part: &str, error: &dyn std::fmt::Display) -> Problem {
    tracing::warn!(part, %error, "not ready");
    let problem = Problem::new(Kind::NotReady, format!("the {part} is not ready"));
    problem.with_code(format!("not_ready.{part}")).with_header(RETRY_AFTER, HeaderValue::from_static("5"))
}

/// Metrics for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "Counters, histograms and the depth of the queue", content_type = "text/plain", body = String))
)]
pub async fn metrics(State(app): State<App>) -> ApiResult<Response> {
    let counts = db::count_jobs(&app.db).await?;
    for state in JobState::ALL {
        let count = counts.iter().find(|(found, _)| *found == state).map_or(0, |(_, count)| *count);
        gauge!("antigen_jobs", "state" => format!("{state:?}").to_lowercase()).set(count as f64);
        if state == JobState::Queued {
            gauge!("antigen_queue_depth").set(count as f64);
        }
    }
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4");
    Ok(([(CONTENT_TYPE, media_type)], prometheus().render()).into_response())
}
