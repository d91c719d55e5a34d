//! The `job_events` table: what happened to a job, in order. The row number is the id of the server-sent
//! event.

use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json;
use utoipa::ToSchema;

use super::dialect::Tx;
use super::{Db, JobId, Result, StepId, Timestamp};

/// One thing that happened.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct EventRow {
    /// Row number: grows, is never used twice.
    pub seq: i64,
    /// The job.
    pub job_id: JobId,
    /// The step, when it concerns one.
    pub step_id: Option<StepId>,
    /// The kind of the event.
    pub kind: EventKind,
    /// Details, one shape per kind.
    pub data: Json<Value>,
    /// The moment.
    pub created_at: Timestamp,
}

/// The kinds of events of a job. The text form is part of the public interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, ToSchema)]
#[non_exhaustive]
pub enum EventKind {
    /// The job was created. `{}`
    #[serde(rename = "job.queued")]
    #[sqlx(rename = "job.queued")]
    JobQueued,
    /// Its first step was claimed. `{}`
    #[serde(rename = "job.running")]
    #[sqlx(rename = "job.running")]
    JobRunning,
    /// Somebody asked to cancel it while a step was running. `{}`
    #[serde(rename = "job.cancelling")]
    #[sqlx(rename = "job.cancelling")]
    JobCancelling,
    /// It ended with a report. `{verdict, artifact_id, signature_id}`
    #[serde(rename = "job.succeeded")]
    #[sqlx(rename = "job.succeeded")]
    JobSucceeded,
    /// It ended without one. `{error: {class, code, message}}`
    #[serde(rename = "job.failed")]
    #[sqlx(rename = "job.failed")]
    JobFailed,
    /// It was cancelled. `{}`
    #[serde(rename = "job.cancelled")]
    #[sqlx(rename = "job.cancelled")]
    JobCancelled,
    /// Nobody started it in time. `{}`
    #[serde(rename = "job.expired")]
    #[sqlx(rename = "job.expired")]
    JobExpired,
    /// A worker claimed a step. `{kind, attempt}`
    #[serde(rename = "step.started")]
    #[sqlx(rename = "step.started")]
    StepStarted,
    /// A step entered a stage. `{stage}`
    #[serde(rename = "step.stage")]
    #[sqlx(rename = "step.stage")]
    StepStage,
    /// A stage advanced. `{stage, done, total}`
    #[serde(rename = "step.progress")]
    #[sqlx(rename = "step.progress")]
    StepProgress,
    /// A step ended well. `{kind}`
    #[serde(rename = "step.succeeded")]
    #[sqlx(rename = "step.succeeded")]
    StepSucceeded,
    /// An attempt failed and another follows. `{attempt, error}`
    #[serde(rename = "step.retrying")]
    #[sqlx(rename = "step.retrying")]
    StepRetrying,
    /// A step failed for good. `{error}`
    #[serde(rename = "step.failed")]
    #[sqlx(rename = "step.failed")]
    StepFailed,
}

impl EventKind {
    /// True when the job has ended and no event follows.
    pub fn ends_job(self) -> bool {
        matches!(self, Self::JobSucceeded | Self::JobFailed | Self::JobCancelled | Self::JobExpired)
    }
}

/// Up to `limit` events of a job after row number `after` (0: from the start), oldest first.
pub async fn list_events(db: &Db, job: JobId, after: i64, limit: i64) -> Result<Vec<EventRow>> {
    let rows = sqlx::query_as("SELECT * FROM job_events WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?")
        .bind(job)
        .bind(after)
        .bind(limit)
        .fetch_all(db.pool())
        .await?;
    Ok(rows)
}

/// Records an event as part of the change that it tells of.
pub(super) async fn insert_event_in(
    tx: &mut Tx,
    job: JobId,
    step: Option<StepId>,
    kind: EventKind,
    data: Value,
) -> Result<()> {
    sqlx::query("INSERT INTO job_events (job_id, step_id, kind, data, created_at) VALUES (?, ?, ?, ?, ?)")
        .bind(job)
        .bind(step)
        .bind(kind)
        .bind(Json(data))
        .bind(Timestamp::now())
        .execute(&mut **tx)
        .await?;
    Ok(())
}
