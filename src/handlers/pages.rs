//! The pages for people: the list of jobs, one job, the explanation of a kind of problem, and the style
//! sheet.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{Html, IntoResponse, Response},
};
use serde::Deserialize;

use super::artifacts::view_artifact;
use super::events::page_of_events;
use super::jobs::{JobsQuery, find_job, page_of_jobs, view_job};
use super::results::parse_report;
use crate::app::App;
use crate::db::JobId;
use crate::error::{ApiResult, Kind, Problem};
use crate::extract::{Path, Query};
use crate::pages::JobPage;
use crate::views::ArtifactView;
use crate::{db, pages};

/// Jobs on one page.
const JOBS: i64 = 50;
/// Events on one page: the newest ones of a long job.
const EVENTS: i64 = 1000;

/// The place at which the list continues.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    after: Option<JobId>,
}

/// The list of jobs.
pub async fn jobs_page(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> ApiResult<Html<String>> {
    let query = JobsQuery { limit: JOBS, after: query.after, state: None, artifact_id: None };
    let page = page_of_jobs(&app, &query).await?;
    Ok(Html(pages::jobs_page(&page, &origin(&headers))?))
}

/// One job: verdict and evidence, or progress.
pub async fn job_page(State(app): State<App>, Path(id): Path<JobId>, headers: HeaderMap) -> ApiResult<Html<String>> {
    let row = find_job(&app, id).await?;
    let report = match db::find_report(&app.db, id).await? {
        Some(text) => Some(parse_report(&text)?),
        None => None,
    };
    let purified = match row.purified_id {
        Some(artifact) => Some(view_artifact(&app, artifact).await?),
        None => None,
    };
    let has_signature = row.signature_id.is_some();
    let events = page_of_events(&app, id, 0, EVENTS).await?;
    let page = JobPage {
        files: files(id, purified.as_ref(), report.is_some(), has_signature),
        job: view_job(&app, row).await?,
        report,
        events: events.data,
        origin: origin(&headers),
    };
    Ok(Html(pages::job_page(&page)?))
}

fn files(id: JobId, purified: Option<&ArtifactView>, has_report: bool, has_signature: bool) -> Vec<pages::FileLink> {
    let mut links = Vec::new();
    if let Some(artifact) = purified {
        links.push(pages::FileLink::new("Purified artifact, all files (tar)", &artifact.download));
        links.extend(artifact.files.iter().map(pages::FileLink::of));
    }
    if has_report {
        links.push(pages::FileLink::new("Report (JSON)", &format!("/v1/jobs/{id}/report?format=json")));
        links.push(pages::FileLink::new("Every rate (CSV)", &format!("/v1/jobs/{id}/report.csv")));
    }
    if has_signature {
        links.push(pages::FileLink::new("Signature", &format!("/v1/jobs/{id}/signature")));
    }
    links
}

/// The address by which the reader reached us, for the curl lines on the pages; the guard has checked the
/// name.
pub(super) fn origin(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost:8080");
    format!("http://{host}")
}

/// The explanation of a kind of problem.
pub async fn problem_kind_page(Path(code): Path<String>) -> ApiResult<Html<String>> {
    let kind = Kind::find(&code).ok_or_else(|| Problem::not_found("kind of problem", &code))?;
    Ok(Html(pages::problem_kind_page(kind)?))
}

/// The embedded files under `/static`.
pub async fn static_file(Path(name): Path<String>) -> ApiResult<Response> {
    let (media_type, content) = match name.as_str() {
        "antigen.css" => ("text/css; charset=utf-8", include_str!("../../static/antigen.css")),
        "antigen.svg" => ("image/svg+xml", include_str!("../../static/antigen.svg")),
        _ => return Err(Problem::not_found("file", &name)),
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("max-age=300")),
    ];
    Ok((headers, content).into_response())
}
