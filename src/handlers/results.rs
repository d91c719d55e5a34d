//! The results of a job: report, signature, purified artifact.

use antigen_engine::report::{Report, read_report};
use axum::{
    Json as Body,
    extract::State,
    http::{
        HeaderMap, HeaderValue,
        header::{CONTENT_DISPOSITION, CONTENT_TYPE, RETRY_AFTER, VARY},
    },
    response::{Html, IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::artifacts::{files_of, view_artifact};
use super::download::Download;
use super::jobs::{find_job, view_job};
use super::pages::origin;
use crate::app::App;
use crate::db::{JobId, JobRow};
use crate::error::{ApiResult, Kind, Problem, ProblemBody};
use crate::extract::{Accept, Path, Query, Wanted};
use crate::views::ArtifactView;
use crate::{db, openapi, pages};

/// The form of the report to send.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReportQuery {
    /// Wins over `Accept`.
    #[param(inline)]
    format: Option<ReportFormat>,
}

/// Forms of a report.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportFormat {
    /// The report itself.
    Json,
    /// A page with the same numbers.
    Html,
}

/// The report of a job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/report", tag = "jobs",
    params(("id" = JobId, Path, description = "The job"), ReportQuery),
    responses(
        (status = 200, description = "The report, as JSON or as a page", content((Report = "application/json"), (String = "text/html"))),
        (status = 400, description = "A query parameter is unknown", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job, or it ended without a report", body = ProblemBody, content_type = "application/problem+json"),
        (status = 406, description = "Neither JSON nor HTML is accepted", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The job has not ended", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn show_report(
    State(app): State<App>,
    Path(id): Path<JobId>,
    Query(query): Query<ReportQuery>,
    headers: HeaderMap,
    accept: Accept,
) -> ApiResult<Response> {
    let job = find_job(&app, id).await?;
    let wanted = match query.format {
        Some(ReportFormat::Json) => Some(Wanted::Json),
        Some(ReportFormat::Html) => Some(Wanted::Html),
        None => accept.choose(&[Wanted::Json, Wanted::Html]),
    };
    let text = db::find_report(&app.db, id).await?.ok_or_else(|| not_there(&job, "report"))?;
    let mut response = match wanted {
        Some(Wanted::Json) => ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response(),
        Some(_) => {
            let job = view_job(&app, job).await?;
            Html(pages::report_page(&job, &parse_report(&text)?, &origin(&headers))?).into_response()
        }
        None => {
            return Err(Problem::new(Kind::NotAcceptable, "expected Accept to allow application/json or text/html"));
        }
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// A stored report of any version. One that cannot be read is our fault: we wrote it.
pub(super) fn parse_report(text: &str) -> ApiResult<Report> {
    read_report(text.as_bytes()).map_err(Problem::internal)
}

/// Every rate of a report as CSV: one line for each model, measurement and format.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/report.csv", tag = "jobs",
    params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "Columns: role, model, evaluator, item, measure, format, hits, n, rate, low, high (Wilson 95 % interval), recipe_sha256",
            content_type = "text/csv", body = String),
        (status = 404, description = "There is no such job, or it ended without a report", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The job has not ended", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn download_rates(State(app): State<App>, Path(id): Path<JobId>) -> ApiResult<Response> {
    let job = find_job(&app, id).await?;
    let text = db::find_report(&app.db, id).await?.ok_or_else(|| not_there(&job, "report"))?;
    let headers = [
        (CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.csv\"")),
    ];
    Ok((headers, parse_report(&text)?.rates_csv()).into_response())
}

/// The JSON schema (2020-12) of a version of the report.
///
/// The address is stable. Version 1 is that of earlier releases; version 2, which is written now, is not
/// frozen yet.
#[utoipa::path(
    get, path = "/v1/schemas/antigen.report/{version}", tag = "catalogue",
    params(("version" = String, Path, description = "`1` or `2`")),
    responses(
        (status = 200, description = "The schema", content_type = "application/schema+json", body = Object),
        (status = 404, description = "There is no such version", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn show_report_schema(Path(version): Path<String>) -> ApiResult<Response> {
    let schema = match version.as_str() {
        "1" => include_str!("../../openapi/report-1.schema.json").to_owned(),
        "2" => openapi::report_schema(),
        _ => return Err(Problem::not_found("schema", format!("antigen.report/{version}"))),
    };
    Ok(([(CONTENT_TYPE, "application/schema+json")], schema).into_response())
}

/// The signature that a job has extracted.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/signature", tag = "jobs",
    params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "The signature file, with ETag and ranges as any download", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The asked range of it", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 304, description = "The caller has these bytes"),
        (status = 404, description = "There is no such job, or it has no signature", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The job has not ended", body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "The file has no such range", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn download_signature(
    State(app): State<App>,
    Path(id): Path<JobId>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let job = find_job(&app, id).await?;
    let artifact = job.signature_id.ok_or_else(|| not_there(&job, "signature"))?;
    let file = files_of(&app, artifact).await?.into_iter().next().ok_or_else(|| not_there(&job, "signature"))?;
    let media_type = if file.path.ends_with(".json") { "application/json" } else { "application/octet-stream" };
    Download::file(file, media_type).answer(&app, &headers)
}

/// The purified artifact of a job, as `GET /v1/artifacts/{id}` shows it.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/artifact", tag = "jobs",
    params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "The purified artifact", body = ArtifactView,
            headers(("Content-Location" = String, description = "Path of the artifact"))),
        (status = 404, description = "There is no such job, or it has no purified artifact", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The job has not ended", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn show_purified(State(app): State<App>, Path(id): Path<JobId>) -> ApiResult<Response> {
    let job = find_job(&app, id).await?;
    let artifact = job.purified_id.ok_or_else(|| not_there(&job, "purified artifact"))?;
    let location = [("content-location", format!("/v1/artifacts/{artifact}"))];
    Ok((location, Body::<ArtifactView>(view_artifact(&app, artifact).await?)).into_response())
}

/// Not yet, or not at all.
fn not_there(job: &JobRow, what: &str) -> Problem {
    if job.state.is_final() {
        return Problem::new(Kind::NotFound, format!("job {} ended without a {what}", job.id));
    }
    let problem = Problem::conflict(format!("job {} has not ended, its {what} does not exist yet", job.id));
    problem.with_code("job.not_ended").with_header(RETRY_AFTER, HeaderValue::from_static("5"))
}
