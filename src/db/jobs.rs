//! The `jobs` table: what was asked, how far it is, how it ended.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{QueryBuilder, Sqlite, types::Json};
use utoipa::ToSchema;

use super::dialect::Tx;
use super::events::insert_event_in;
use super::steps::{StepKind, insert_step_in};
use super::{ArtifactId, Db, Deletion, EventKind, JobId, Result, Timestamp};

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// A worker is at it, or it waits between two steps.
    Running,
    /// Somebody asked to stop it; its worker is stopping.
    Cancelling,
    /// Ended with a report, whatever the verdict.
    Succeeded,
    /// Ended without a report; the error says whose fault it is.
    Failed,
    /// Stopped on request.
    Cancelled,
    /// Nobody started it in time.
    Expired,
}

impl JobState {
    /// Every state, in the order of a job's life.
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Cancelling, Self::Succeeded, Self::Failed, Self::Cancelled, Self::Expired];

    /// True when nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired)
    }
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The submission: the same input fails again.
    Input,
    /// The machine; tried again, up to the attempts allowed.
    Infrastructure,
    /// A limit of memory or time.
    Budget,
}

/// The failure of a job or a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// Whose fault it is.
    pub class: ErrorClass,
    /// A stable code.
    pub code: String,
    /// The expectation, the finding and its place.
    pub message: String,
}

/// One job.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobRow {
    /// Its id.
    pub id: JobId,
    /// Its state.
    pub state: JobState,
    /// The suspect.
    pub artifact_id: ArtifactId,
    /// The caller's task rows.
    pub task_rows_id: Option<ArtifactId>,
    /// The signature that it was given.
    pub given_signature_id: Option<ArtifactId>,
    /// Name of the base model.
    pub base: String,
    /// The specification, with every default filled in.
    pub spec: Json<Value>,
    /// The caller's labels, text to text.
    pub labels: Json<std::collections::BTreeMap<String, String>>,
    error_class: Option<ErrorClass>,
    error_code: Option<String>,
    error_message: Option<String>,
    /// The verdict of the report in one word.
    pub verdict_status: Option<String>,
    /// The purified artifact.
    pub purified_id: Option<ArtifactId>,
    /// The extracted signature.
    pub signature_id: Option<ArtifactId>,
    /// The moment of its creation.
    pub created_at: Timestamp,
    /// The moment at which its first step was claimed.
    pub started_at: Option<Timestamp>,
    /// The moment of its end.
    pub finished_at: Option<Timestamp>,
}

impl JobRow {
    /// The failure, if it failed.
    pub fn error(&self) -> Option<Failure> {
        Some(Failure {
            class: self.error_class?,
            code: self.error_code.clone()?,
            message: self.error_message.clone().unwrap_or_default(),
        })
    }
}

/// A job about to be created.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The suspect.
    pub artifact_id: ArtifactId,
    /// The caller's task rows.
    pub task_rows_id: Option<ArtifactId>,
    /// The signature of an earlier job.
    pub given_signature_id: Option<ArtifactId>,
    /// Name of the base model.
    pub base: String,
    /// The specification.
    pub spec: Value,
    /// The caller's labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Attempts allowed for each step.
    pub max_attempts: u32,
}

/// Selection of the jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only jobs created before this one: the cursor, as the list is newest first.
    pub after: Option<JobId>,
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs on this artifact.
    pub artifact_id: Option<ArtifactId>,
}

/// The answer to a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// It had not started, or was between two steps, and is cancelled now.
    Cancelled,
    /// Its worker will stop within seconds.
    Cancelling,
    /// It had ended already.
    AlreadyFinal(JobState),
    /// There is no such job.
    NotFound,
}

/// Creates a job with its steps and first event, in one transaction.
pub async fn insert_job(db: &Db, new: &NewJob) -> Result<JobRow> {
    let mut tx = db.begin().await?;
    let row: JobRow = sqlx::query_as(
        "INSERT INTO jobs (id, state, artifact_id, task_rows_id, given_signature_id, base, spec, labels, created_at)
         VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?) RETURNING *",
    )
    .bind(JobId::new())
    .bind(new.artifact_id)
    .bind(new.task_rows_id)
    .bind(new.given_signature_id)
    .bind(&new.base)
    .bind(Json(&new.spec))
    .bind(Json(&new.labels))
    .bind(Timestamp::now())
    .fetch_one(&mut *tx)
    .await?;
    let inspect = insert_step_in(&mut tx, row.id, StepKind::Inspect, new.max_attempts, &[]).await?;
    insert_step_in(&mut tx, row.id, StepKind::Purify, new.max_attempts, &[inspect]).await?;
    insert_event_in(&mut tx, row.id, None, EventKind::JobQueued, json!({})).await?;
    db.commit(tx).await?;
    Ok(row)
}

/// The job called `id`.
pub async fn find_job(db: &Db, id: JobId) -> Result<Option<JobRow>> {
    Ok(sqlx::query_as("SELECT * FROM jobs WHERE id = ?").bind(id).fetch_optional(db.pool()).await?)
}

/// Name of the base over which a signature was extracted, as far as its job is still there.
pub async fn find_base_of_signature(db: &Db, signature: ArtifactId) -> Result<Option<String>> {
    Ok(sqlx::query_scalar("SELECT base FROM jobs WHERE signature_id = ?")
        .bind(signature)
        .fetch_optional(db.pool())
        .await?)
}

/// Up to `limit` jobs, newest first.
pub async fn list_jobs(db: &Db, filter: &JobFilter, limit: i64) -> Result<Vec<JobRow>> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM jobs WHERE 1 = 1");
    if let Some(after) = filter.after {
        query.push(" AND id < ").push_bind(after);
    }
    if let Some(state) = filter.state {
        query.push(" AND state = ").push_bind(state);
    }
    if let Some(artifact) = filter.artifact_id {
        query.push(" AND artifact_id = ").push_bind(artifact);
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(limit);
    Ok(query.build_query_as().fetch_all(db.pool()).await?)
}

/// Number of jobs in each state that occurs.
pub async fn count_jobs(db: &Db) -> Result<Vec<(JobState, i64)>> {
    Ok(sqlx::query_as("SELECT state, count(*) FROM jobs GROUP BY state").fetch_all(db.pool()).await?)
}

/// Number of queued jobs that were created before `id`.
pub async fn count_jobs_ahead(db: &Db, id: JobId) -> Result<i64> {
    let ahead = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'queued' AND id < ?")
        .bind(id)
        .fetch_one(db.pool())
        .await?;
    Ok(ahead)
}

/// The report of a job as JSON text, once it has succeeded.
pub async fn find_report(db: &Db, id: JobId) -> Result<Option<String>> {
    Ok(sqlx::query_scalar("SELECT report FROM reports WHERE job_id = ?").bind(id).fetch_optional(db.pool()).await?)
}

/// True while a job may still need its work folder.
pub async fn job_is_open(db: &Db, job: JobId) -> Result<bool> {
    let open: i64 = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE id = ? AND state IN ('queued', 'running', 'cancelling'))",
    )
    .bind(job)
    .fetch_one(db.pool())
    .await?;
    Ok(open == 1)
}

/// Asks to stop a job. A running step is stopped by its worker, which sees the flag when it renews its lease.
pub async fn request_cancel(db: &Db, id: JobId) -> Result<Cancellation> {
    let mut tx = db.begin().await?;
    let state: Option<JobState> =
        sqlx::query_scalar("SELECT state FROM jobs WHERE id = ?").bind(id).fetch_optional(&mut *tx).await?;
    match state {
        None => return Ok(Cancellation::NotFound),
        Some(JobState::Cancelling) => return Ok(Cancellation::Cancelling),
        Some(state) if state.is_final() => return Ok(Cancellation::AlreadyFinal(state)),
        Some(_) => {}
    }
    sqlx::query("UPDATE steps SET cancel_requested = 1 WHERE job_id = ?").bind(id).execute(&mut *tx).await?;
    let running: i64 = sqlx::query_scalar("SELECT count(*) FROM steps WHERE job_id = ? AND state = 'running'")
        .bind(id)
        .fetch_one(&mut *tx)
        .await?;
    let outcome = if running > 0 {
        sqlx::query("UPDATE jobs SET state = 'cancelling' WHERE id = ?").bind(id).execute(&mut *tx).await?;
        insert_event_in(&mut tx, id, None, EventKind::JobCancelling, json!({})).await?;
        Cancellation::Cancelling
    } else {
        close_job_in(&mut tx, id, JobState::Cancelled).await?;
        Cancellation::Cancelled
    };
    db.commit(tx).await?;
    Ok(outcome)
}

/// Removes an ended job with its steps, events, report and produced artifacts. The submission stays.
pub async fn delete_job(db: &Db, id: JobId) -> Result<Deletion> {
    let mut tx = db.begin().await?;
    let job: Option<JobRow> =
        sqlx::query_as("SELECT * FROM jobs WHERE id = ?").bind(id).fetch_optional(&mut *tx).await?;
    let Some(job) = job else { return Ok(Deletion::NotFound) };
    if !job.state.is_final() {
        return Ok(Deletion::InUse);
    }
    sqlx::query("DELETE FROM jobs WHERE id = ?").bind(id).execute(&mut *tx).await?;
    for produced in [job.purified_id, job.signature_id].into_iter().flatten() {
        // A purified artifact may have been submitted again, a signature given to another job: then it
        // belongs to that job too.
        sqlx::query(
            "DELETE FROM artifacts WHERE id = ?1
             AND NOT EXISTS (SELECT 1 FROM jobs WHERE artifact_id = ?1 OR given_signature_id = ?1)",
        )
        .bind(produced)
        .execute(&mut *tx)
        .await?;
    }
    db.commit(tx).await?;
    Ok(Deletion::Deleted)
}

/// Ends jobs that have waited since before `moment`.
pub async fn expire_jobs(db: &Db, moment: Timestamp) -> Result<Vec<JobId>> {
    let mut tx = db.begin().await?;
    let ids: Vec<JobId> = sqlx::query_scalar("SELECT id FROM jobs WHERE state = 'queued' AND created_at < ?")
        .bind(moment)
        .fetch_all(&mut *tx)
        .await?;
    for id in &ids {
        close_job_in(&mut tx, *id, JobState::Expired).await?;
    }
    db.commit(tx).await?;
    Ok(ids)
}

/// Ends a job without result and without error: its open steps are cancelled with it.
pub(super) async fn close_job_in(tx: &mut Tx, id: JobId, state: JobState) -> Result<()> {
    let now = Timestamp::now();
    sqlx::query("UPDATE jobs SET state = ?, finished_at = ? WHERE id = ?")
        .bind(state)
        .bind(now)
        .bind(id)
        .execute(&mut **tx)
        .await?;
    cancel_open_steps_in(tx, id).await?;
    let kind = if state == JobState::Expired { EventKind::JobExpired } else { EventKind::JobCancelled };
    insert_event_in(tx, id, None, kind, json!({})).await
}

/// Ends a job with an error: its open steps are cancelled with it.
pub(super) async fn fail_job_in(tx: &mut Tx, id: JobId, failure: &Failure) -> Result<()> {
    sqlx::query(
        "UPDATE jobs SET state = 'failed', error_class = ?, error_code = ?, error_message = ?, finished_at = ? WHERE id = ?",
    )
    .bind(failure.class)
    .bind(&failure.code)
    .bind(&failure.message)
    .bind(Timestamp::now())
    .bind(id)
    .execute(&mut **tx)
    .await?;
    cancel_open_steps_in(tx, id).await?;
    insert_event_in(tx, id, None, EventKind::JobFailed, json!({ "error": failure })).await
}

async fn cancel_open_steps_in(tx: &mut Tx, id: JobId) -> Result<()> {
    sqlx::query(
        "UPDATE steps SET state = 'cancelled', lease_owner = NULL, lease_until = NULL, finished_at = ?
         WHERE job_id = ? AND state IN ('waiting', 'ready', 'running')",
    )
    .bind(Timestamp::now())
    .bind(id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
