//! `/v1/jobs`: create, list, show, cancel, delete.
//!
//! Room for `Idempotency-Key`: it belongs before [`create_job`]'s first line, as an extractor that answers
//! repeated requests.

use std::{collections::BTreeMap, time::Duration};

use antigen_engine::error::EngineError;
use antigen_engine::spec::{EvaluatorSpec, SubjectKind, SuspectFacts};
use axum::{
    Json as Body,
    extract::State,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{LINK, LOCATION, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::artifacts::find_artifact;
use crate::app::App;
use crate::config::Base;
use crate::db;
use crate::db::{
    ArtifactId, ArtifactType, Cancellation, Deletion, JobFilter, JobId, JobRow, JobState, NewJob, UploadId,
};
use crate::error::{ApiResult, Kind, Problem, ProblemBody};
use crate::extract::{Json, Path, PreferWait, Query};
use crate::intake::TOKENIZER;
use crate::views::{CreateJob, JobView, JobsPage};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Seconds after which a caller who polls may ask again.
const POLL_AGAIN: &str = "5";
/// Interval at which a waiter looks although no commit of this process woke it: another process may have
/// committed.
pub(super) const SLOW_POLL: Duration = Duration::from_secs(1);

/// Create a job: measure the suspect, purify it, measure again.
///
/// Answers at once with 202, or after up to `Prefer: wait=N` seconds with 200 if the job has ended by then.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs",
    request_body = CreateJob,
    params(("Prefer" = Option<String>, Header, description = "`wait=N`: seconds to wait for the end", example = "wait=60")),
    responses(
        (status = 202, description = "The job waits for a worker", body = JobView,
            headers(("Location" = String, description = "Path of the job"), ("Retry-After" = u64, description = "Seconds"))),
        (status = 200, description = "The job has ended within the seconds of `Prefer`", body = JobView),
        (status = 400, description = "The JSON cannot be read", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown or impossible; `errors` has its JSON pointer", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The queue is full", body = ProblemBody, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create_job(
    State(app): State<App>,
    PreferWait(wait): PreferWait,
    Json(request): Json<CreateJob>,
) -> ApiResult<Response> {
    let new = check_request(&app, request).await?;
    refuse_when_full(&app).await?;
    let row = db::insert_job(&app.db, &new).await?;
    tracing::info!(job = %row.id, artifact = %row.artifact_id, base = %row.base, "job queued");
    let location = HeaderValue::from_str(&format!("/v1/jobs/{}", row.id)).map_err(Problem::internal)?;
    let wait = wait.min(Duration::from_secs(app.config.server.wait_max_s));
    let row = if wait.is_zero() { row } else { wait_for_end(&app, row, wait).await? };
    let status = if row.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = (status, Body(view_job(&app, row).await?)).into_response();
    response.headers_mut().insert(LOCATION, location);
    if status == StatusCode::ACCEPTED {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(POLL_AGAIN));
    }
    if !wait.is_zero() {
        let applied = HeaderValue::from_str(&format!("wait={}", wait.as_secs())).map_err(Problem::internal)?;
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

async fn check_request(app: &App, request: CreateJob) -> ApiResult<NewJob> {
    check_spec(request.spec.validate())?;
    check_spec(app.config.evaluators.folders().check(&request.spec.evaluators))?;
    check_labels(&request.labels)?;
    let Some(base) = app.config.base(&request.base) else {
        let known = app.config.bases.names().join(", ");
        return Err(Problem::invalid("/base", format!("expected one of {known}, found {:?}", request.base)));
    };
    let (artifact_id, suspect) = match (request.artifact_id, request.upload_id) {
        (Some(id), None) => check_suspect(app, "/artifact_id", id, &base).await?,
        (None, Some(id)) => {
            let artifact = accepted_artifact(app, "/upload_id", id).await?;
            check_suspect(app, "/upload_id", artifact, &base).await?
        }
        _ => return Err(Problem::invalid("", "expected either artifact_id or upload_id, and not both")),
    };
    let given_signature_id = match request.signature_artifact_id {
        Some(id) => Some(check_signature(app, id, &request.base).await?),
        None => None,
    };
    check_spec(request.spec.check_for(SuspectFacts { given_signature: given_signature_id.is_some(), ..suspect }))?;
    check_triggered(&request)?;
    let task_rows_id = match request.task_rows_upload_id {
        Some(id) => Some(check_task_rows(app, accepted_artifact(app, "/task_rows_upload_id", id).await?).await?),
        None => None,
    };
    let spec = serde_json::to_value(&request.spec).map_err(Problem::internal)?;
    let max_attempts = app.config.worker.max_attempts;
    let (base, labels) = (request.base, request.labels);
    Ok(NewJob { artifact_id, task_rows_id, given_signature_id, base, spec, labels, max_attempts })
}

fn check_spec(checked: Result<(), EngineError>) -> ApiResult<()> {
    checked.map_err(|error| match error {
        EngineError::Spec { field, why } => Problem::invalid(format!("/spec{field}"), why),
        other => Problem::internal(other),
    })
}

/// Triggered rows are in the spec or come with the caller's task rows; whether these have some is known when
/// they are read.
fn check_triggered(request: &CreateJob) -> ApiResult<()> {
    let lacking = |evaluator: &EvaluatorSpec| match evaluator {
        EvaluatorSpec::Asr(asr) => asr.takes_rows() && asr.triggered.is_empty(),
        _ => false,
    };
    match request.spec.evaluators.iter().position(lacking).filter(|_| request.task_rows_upload_id.is_none()) {
        None => Ok(()),
        Some(i) => Err(Problem::invalid(
            format!("/spec/evaluators/{i}/triggered"),
            "expected triggered rows here, or task rows of the use `triggered` in task_rows_upload_id; found neither",
        )),
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> ApiResult<()> {
    if labels.len() > 32 {
        return Err(Problem::invalid("/labels", format!("expected at most 32 labels, found {}", labels.len())));
    }
    match labels.iter().find(|(name, value)| name.is_empty() || name.len() > 64 || value.len() > 256) {
        Some(_) => Err(Problem::invalid("/labels", "expected names of 1 to 64 bytes and values of up to 256")),
        None => Ok(()),
    }
}

/// True when a whole model has the base's tokenizer, where both are known.
async fn speaks_as(app: &App, id: ArtifactId, base: &Base) -> ApiResult<Option<bool>> {
    let files = db::list_artifact_files(&app.db, id).await?;
    let own = files.into_iter().find(|file| file.path == TOKENIZER);
    Ok(own.zip(base.tokenizer_sha256().await).map(|(own, base)| own.sha256 == base))
}

/// The artifact that an upload became.
async fn accepted_artifact(app: &App, pointer: &str, id: UploadId) -> ApiResult<ArtifactId> {
    let Some(row) = db::find_upload(&app.db, id).await? else {
        return Err(Problem::invalid(pointer, format!("expected an accepted upload, found none with the id {id}")));
    };
    let found = || format!("expected an accepted upload, found one that is {:?}", row.state).to_lowercase();
    row.artifact_id.ok_or_else(|| Problem::invalid(pointer, found()))
}

async fn check_suspect(app: &App, pointer: &str, id: ArtifactId, base: &Base) -> ApiResult<(ArtifactId, SuspectFacts)> {
    let Some(row) = db::find_artifact(&app.db, id).await? else {
        return Err(Problem::invalid(pointer, format!("expected an artifact, found none with the id {id}")));
    };
    if let Some(reason) = row.quarantine_reason {
        let problem = Problem::invalid(pointer, format!("artifact {id} is quarantined: {reason}"));
        return Err(problem.with_code("intake.quarantined"));
    }
    if let Some(labels) = row.facts["labels"].as_u64() {
        let message = format!("expected a language model, found a sequence classifier of {labels} labels");
        return Err(Problem::invalid(pointer, message).with_code("job.classifier"));
    }
    let facts = match row.kind {
        ArtifactType::Adapter => SuspectFacts { blocks: base.blocks().await, ..SubjectKind::Adapter.into() },
        ArtifactType::Checkpoint => SuspectFacts {
            blocks: row.facts["blocks"].as_u64().map(|blocks| blocks as usize),
            speaks_as_base: speaks_as(app, id, base).await?,
            ..SubjectKind::Checkpoint.into()
        },
        other => {
            let message = format!("expected an adapter or a whole model, found {other:?}");
            return Err(Problem::invalid(pointer, message));
        }
    };
    Ok((id, facts))
}

async fn check_task_rows(app: &App, id: ArtifactId) -> ApiResult<ArtifactId> {
    match find_artifact(app, id).await?.kind {
        ArtifactType::Rows => Ok(id),
        other => Err(Problem::invalid(
            "/task_rows_upload_id",
            format!("expected an upload of purpose rows, found {other:?}"),
        )),
    }
}

/// A signature of the same base, as far as that is known: one of another would fit by its shapes and mean
/// nothing.
async fn check_signature(app: &App, id: ArtifactId, base: &str) -> ApiResult<ArtifactId> {
    let refuse = |found: String| {
        Problem::invalid("/signature_artifact_id", format!("expected a signature extracted over {base}, found {found}"))
    };
    match db::find_artifact(&app.db, id).await?.map(|row| row.kind) {
        None => return Err(refuse(format!("none with the id {id}"))),
        Some(ArtifactType::Signature) => {}
        Some(other) => return Err(refuse(format!("{other:?}").to_lowercase())),
    }
    match db::find_base_of_signature(&app.db, id).await? {
        Some(other) if other != base => Err(refuse(format!("one over {other}"))),
        _ => Ok(id),
    }
}

async fn refuse_when_full(app: &App) -> ApiResult<()> {
    let counts = db::count_jobs(&app.db).await?;
    let queued = counts.iter().find(|(state, _)| *state == JobState::Queued).map_or(0, |(_, count)| *count);
    let limit = app.config.limits.queued_jobs;
    if queued.cast_unsigned() < limit {
        return Ok(());
    }
    let problem = Problem::new(Kind::NotReady, format!("{queued} jobs wait already, the limit is {limit}"));
    Err(problem.with_code("queue_full").with_header(RETRY_AFTER, HeaderValue::from_static("60")))
}

/// The job as it is after its end or after `patience`, whichever comes first.
async fn wait_for_end(app: &App, mut row: JobRow, patience: Duration) -> ApiResult<JobRow> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut commits = app.db.subscribe();
    while !row.state.is_final() && tokio::time::Instant::now() < deadline {
        let until = deadline.min(tokio::time::Instant::now() + SLOW_POLL);
        // Both ends of this wait mean the same: look again.
        let _ = tokio::time::timeout_at(until, commits.changed()).await;
        row = find_job(app, row.id).await?;
    }
    Ok(row)
}

/// Selection of the jobs to list.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobsQuery {
    /// Number of jobs, 1 to 100.
    #[serde(default = "twenty")]
    #[param(default = 20, minimum = 1, maximum = 100)]
    pub limit: i64,
    /// Continue after this job: the `next_cursor` of the page before.
    #[param(value_type = Option<JobId>)]
    pub after: Option<JobId>,
    /// Only jobs in this state.
    #[param(value_type = Option<JobState>)]
    pub state: Option<JobState>,
    /// Only jobs on this artifact.
    #[param(value_type = Option<ArtifactId>)]
    pub artifact_id: Option<ArtifactId>,
}

fn twenty() -> i64 {
    20
}

/// List jobs, newest first.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", params(JobsQuery),
    responses(
        (status = 200, description = "A page of jobs", body = JobsPage,
            headers(("Link" = String, description = "The next page, `rel=\"next\"` (RFC 8288), if there is one"))),
        (status = 400, description = "A query parameter is unknown or impossible", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list_jobs(State(app): State<App>, Query(query): Query<JobsQuery>) -> ApiResult<Response> {
    let page = page_of_jobs(&app, &query).await?;
    let link = page.next_cursor.map(|cursor| next_link(&query, cursor));
    let mut response = Body(page).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(LINK, HeaderValue::from_str(&link).map_err(Problem::internal)?);
    }
    Ok(response)
}

fn next_link(query: &JobsQuery, cursor: JobId) -> String {
    let mut next = format!("/v1/jobs?limit={}&after={cursor}", query.limit);
    if let Some(Ok(serde_json::Value::String(state))) = query.state.map(serde_json::to_value) {
        next.push_str(&format!("&state={state}"));
    }
    if let Some(artifact) = query.artifact_id {
        next.push_str(&format!("&artifact_id={artifact}"));
    }
    format!("<{next}>; rel=\"next\"")
}

/// A page of jobs; one more row than asked for tells whether there are more.
pub(super) async fn page_of_jobs(app: &App, query: &JobsQuery) -> ApiResult<JobsPage> {
    if !(1..=100).contains(&query.limit) {
        return Err(Problem::malformed("limit", format!("expected 1 to 100, found {}", query.limit)));
    }
    let filter = JobFilter { after: query.after, state: query.state, artifact_id: query.artifact_id };
    let mut rows = db::list_jobs(&app.db, &filter, query.limit + 1).await?;
    let has_more = rows.len() as i64 > query.limit;
    rows.truncate(query.limit as usize);
    let next_cursor = rows.last().filter(|_| has_more).map(|row| row.id);
    let mut data = Vec::with_capacity(rows.len());
    for row in rows {
        data.push(view_job(app, row).await?);
    }
    Ok(JobsPage { data, has_more, next_cursor })
}

/// Show a job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = JobId, Path, description = "The job"),
           ("Prefer" = Option<String>, Header, description = "`wait=N`: seconds to wait for the end", example = "wait=60")),
    responses(
        (status = 200, description = "The job, with `Retry-After` while it has not ended", body = JobView),
        (status = 404, description = "There is no such job", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn show_job(
    State(app): State<App>,
    Path(id): Path<JobId>,
    PreferWait(wait): PreferWait,
) -> ApiResult<Response> {
    let row = find_job(&app, id).await?;
    let row = wait_for_end(&app, row, wait.min(Duration::from_secs(app.config.server.wait_max_s))).await?;
    let ended = row.state.is_final();
    let mut response = Body(view_job(&app, row).await?).into_response();
    if !ended {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(POLL_AGAIN));
    }
    Ok(response)
}

/// Cancel a job.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs",
    params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "The job had not started and is cancelled", body = JobView),
        (status = 202, description = "Its worker is stopping", body = JobView),
        (status = 404, description = "There is no such job", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The job has ended", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn cancel_job(State(app): State<App>, Path(id): Path<JobId>) -> ApiResult<(StatusCode, Body<JobView>)> {
    let status = match db::request_cancel(&app.db, id).await? {
        Cancellation::Cancelled => StatusCode::OK,
        Cancellation::Cancelling => StatusCode::ACCEPTED,
        Cancellation::NotFound => return Err(Problem::not_found("job", id)),
        Cancellation::AlreadyFinal(state) => {
            return Err(Problem::conflict(format!("job {id} has ended already: {state:?}").to_lowercase()));
        }
    };
    let row = find_job(&app, id).await?;
    Ok((status, Body(view_job(&app, row).await?)))
}

/// Delete an ended job with its events, report and produced artifacts. The submission stays.
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 204, description = "The job is gone"),
        (status = 404, description = "There is no such job", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The job has not ended; cancel it first", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn delete_job(State(app): State<App>, Path(id): Path<JobId>) -> ApiResult<StatusCode> {
    match db::delete_job(&app.db, id).await? {
        Deletion::Deleted => Ok(StatusCode::NO_CONTENT),
        Deletion::NotFound => Err(Problem::not_found("job", id)),
        Deletion::InUse => Err(Problem::conflict(format!("job {id} has not ended; cancel it first"))),
    }
}

/// The job, or 404.
pub(super) async fn find_job(app: &App, id: JobId) -> ApiResult<JobRow> {
    db::find_job(&app.db, id).await?.ok_or_else(|| Problem::not_found("job", id))
}

/// The public view of a job.
pub(super) async fn view_job(app: &App, row: JobRow) -> ApiResult<JobView> {
    let steps = db::list_steps(&app.db, row.id).await?;
    let ahead = if row.state == JobState::Queued { db::count_jobs_ahead(&app.db, row.id).await? } else { 0 };
    Ok(JobView::new(row, steps, ahead))
}
