//! The `steps` table: units of work, their leases and their progress.
//!
//! A claim raises the step's fence. Whoever writes later shows the fence of its claim; after another claim
//! that write changes nothing. How an attempt ends is in `outcomes.rs`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::dialect::Tx;
use super::events::insert_event_in;
use super::outcomes::reap_expired_leases_in;
use super::{Db, EventKind, JobId, Result, StepId, Timestamp};

/// The kind of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum StepKind {
    /// Checks the submission against its base once more, from the stored bytes.
    Inspect,
    /// Measures, purifies, measures again and reports.
    Purify,
}

/// The state of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum StepState {
    /// Another step has to end first.
    Waiting,
    /// May be claimed.
    Ready,
    /// A worker holds its lease.
    Running,
    /// Ended well.
    Succeeded,
    /// Failed for good.
    Failed,
    /// Its job was cancelled or failed.
    Cancelled,
}

/// One step.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StepRow {
    /// Its id.
    pub id: StepId,
    /// The job that it belongs to.
    pub job_id: JobId,
    /// Its kind.
    pub kind: StepKind,
    /// Its state.
    pub state: StepState,
    /// Attempts begun.
    pub attempt: i64,
    /// Attempts allowed.
    pub max_attempts: i64,
    /// Number of its newest claim.
    pub fence: i64,
    /// The worker that holds it.
    pub lease_owner: Option<String>,
    /// Until when, unless renewed.
    pub lease_until: Option<Timestamp>,
    /// The stage that it is in (`antigen_engine::stage::Stage` as text).
    pub stage: Option<String>,
    /// Units done in that stage.
    pub progress_done: Option<i64>,
    /// Units in that stage.
    pub progress_total: Option<i64>,
    /// The moment at which its first attempt began.
    pub started_at: Option<Timestamp>,
    /// The moment of its end.
    pub finished_at: Option<Timestamp>,
}

/// The right to work on a step, valid until another claim raises the fence.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Claim {
    /// The step.
    #[sqlx(rename = "id")]
    pub step: StepId,
    /// Its job.
    #[sqlx(rename = "job_id")]
    pub job: JobId,
    /// Its kind.
    pub kind: StepKind,
    /// Number of this attempt, from 1.
    pub attempt: i64,
    /// Attempts allowed.
    pub max_attempts: i64,
    /// Number of this claim.
    pub fence: i64,
}

/// The answer to the holder of a lease who renews it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Carry on.
    Held,
    /// Carry on only to stop: the job is to be cancelled.
    CancelRequested,
    /// Another claim was made, or the step ended: stop at once and write nothing.
    Lost,
}

/// The progress of a running step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The stage, as text.
    pub stage: String,
    /// Units done in it.
    pub done: i64,
    /// Units in it; 0 when not known yet.
    pub total: i64,
}

/// The steps of a job in the order of their creation.
pub async fn list_steps(db: &Db, job: JobId) -> Result<Vec<StepRow>> {
    Ok(sqlx::query_as("SELECT * FROM steps WHERE job_id = ? ORDER BY id").bind(job).fetch_all(db.pool()).await?)
}

/// Claims the step that has been ready for longest, if any. The first claim of a job makes it `running`.
pub async fn claim_next_step(db: &Db, owner: &str, lease: Duration, retry_delay: Duration) -> Result<Option<Claim>> {
    let mut tx = db.begin().await?;
    let reaped = reap_expired_leases_in(&mut tx, retry_delay).await?;
    let now = Timestamp::now();
    let claim: Option<Claim> = sqlx::query_as(
        "UPDATE steps SET state = 'running', attempt = attempt + 1, fence = fence + 1, lease_owner = ?1, lease_until = ?2,
                started_at = coalesce(started_at, ?3), stage = NULL, progress_done = NULL, progress_total = NULL
         WHERE id = (SELECT id FROM steps
                     WHERE state = 'ready' AND ready_at <= ?3 AND cancel_requested = 0 AND attempt < max_attempts
                     ORDER BY job_id, id LIMIT 1)
         RETURNING id, job_id, kind, attempt, max_attempts, fence",
    )
    .bind(owner)
    .bind(now.after(lease))
    .bind(now)
    .fetch_optional(&mut *tx)
    .await?;
    if claim.is_none() && reaped == 0 {
        // A commit wakes every waiter: a worker that finds nothing to do would wake itself for ever.
        tx.rollback().await?;
        return Ok(None);
    }
    if let Some(claim) = &claim {
        let started =
            sqlx::query("UPDATE jobs SET state = 'running', started_at = ? WHERE id = ? AND state = 'queued'")
                .bind(now)
                .bind(claim.job)
                .execute(&mut *tx)
                .await?;
        if started.rows_affected() == 1 {
            insert_event_in(&mut tx, claim.job, None, EventKind::JobRunning, json!({})).await?;
        }
        let data = json!({ "kind": claim.kind, "attempt": claim.attempt });
        insert_event_in(&mut tx, claim.job, Some(claim.step), EventKind::StepStarted, data).await?;
    }
    db.commit(tx).await?;
    Ok(claim)
}

/// Extends the lease and reads the cancel flag.
pub async fn renew_lease(db: &Db, claim: &Claim, lease: Duration) -> Result<Renewal> {
    let cancel: Option<bool> = sqlx::query_scalar(
        "UPDATE steps SET lease_until = ? WHERE id = ? AND fence = ? AND state = 'running' RETURNING cancel_requested",
    )
    .bind(Timestamp::now().after(lease))
    .bind(claim.step)
    .bind(claim.fence)
    .fetch_optional(db.pool())
    .await?;
    Ok(match cancel {
        Some(false) => Renewal::Held,
        Some(true) => Renewal::CancelRequested,
        None => Renewal::Lost,
    })
}

/// Lets every lease of a worker that is known to be dead run out now.
pub async fn end_leases_of(db: &Db, owner: &str) -> Result<()> {
    sqlx::query("UPDATE steps SET lease_until = 0 WHERE lease_owner = ? AND state = 'running'")
        .bind(owner)
        .execute(db.pool())
        .await?;
    Ok(())
}

/// Writes how far a step is, with an event when `event` is given. `false`: the lease is lost.
pub async fn record_progress(db: &Db, claim: &Claim, progress: &Progress, event: Option<EventKind>) -> Result<bool> {
    let mut tx = db.begin().await?;
    let changed = sqlx::query(
        "UPDATE steps SET stage = ?, progress_done = ?, progress_total = ? WHERE id = ? AND fence = ? AND state = 'running'",
    )
    .bind(&progress.stage)
    .bind(progress.done)
    .bind(progress.total)
    .bind(claim.step)
    .bind(claim.fence)
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(false);
    }
    if let Some(kind) = event {
        let data = match kind {
            EventKind::StepStage => json!({ "stage": progress.stage }),
            _ => json!({ "stage": progress.stage, "done": progress.done, "total": progress.total }),
        };
        insert_event_in(&mut tx, claim.job, Some(claim.step), kind, data).await?;
    }
    db.commit(tx).await?;
    Ok(true)
}

/// Adds a step to a new job; it is ready when it depends on nothing.
pub(super) async fn insert_step_in(
    tx: &mut Tx,
    job: JobId,
    kind: StepKind,
    max_attempts: u32,
    depends_on: &[StepId],
) -> Result<StepId> {
    let id = StepId::new();
    let state = if depends_on.is_empty() { StepState::Ready } else { StepState::Waiting };
    sqlx::query("INSERT INTO steps (id, job_id, kind, state, pending_deps, ready_at, max_attempts) VALUES (?, ?, ?, ?, ?, ?, ?)")
        .bind(id)
        .bind(job)
        .bind(kind)
        .bind(state)
        .bind(depends_on.len() as i64)
        .bind(Timestamp::now())
        .bind(max_attempts)
        .execute(&mut **tx)
        .await?;
    for dependency in depends_on {
        sqlx::query("INSERT INTO step_deps (step_id, depends_on) VALUES (?, ?)")
            .bind(id)
            .bind(dependency)
            .execute(&mut **tx)
            .await?;
    }
    Ok(id)
}
