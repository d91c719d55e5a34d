//! The ends of an attempt at a step, each in one fenced transaction with its events.
//!
//! A step that fails by its own word (`Failed`) is treated by the class of its error: only the machine's
//! faults are tried again. An attempt that ends without a word (`Crashed`: a signal, an abort, a lost worker)
//! is tried again too, but when the attempts are used up the submission is quarantined, because it may be
//! what kills the workers.

use std::time::Duration;

use serde_json::json;

use super::artifacts::insert_artifact_in;
use super::dialect::Tx;
use super::events::insert_event_in;
use super::jobs::{close_job_in, fail_job_in};
use super::{Claim, Db, ErrorClass, EventKind, Failure, JobId, JobState, NewArtifact, Result, StepState, Timestamp};

/// Code of a job whose step ended without a word as often as it was tried.
pub const CRASHED_REPEATEDLY: &str = "worker_crashed_repeatedly";

/// The end of an attempt that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The step said why.
    Failed(Failure),
    /// It ended without a word; what was seen of it.
    Crashed(String),
}

/// The consequence for a step whose attempt did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// Another attempt follows.
    Retry,
    /// The job has failed.
    JobFailed,
    /// The job is cancelled: it was to be, and the attempt that ended was the one to stop.
    JobCancelled,
    /// The lease was lost before; nothing was written.
    LeaseLost,
}

/// The results of a finished `purify` step. The blobs of both artifacts are in the store already.
#[derive(Debug, Clone)]
pub struct Purified {
    /// The report as JSON text.
    pub report: String,
    /// Its verdict in one word.
    pub verdict_status: String,
    /// The purified model or adapter.
    pub purified: NewArtifact,
    /// The extracted signature, when there is one.
    pub signature: Option<NewArtifact>,
}

/// Ends an `inspect` step: the steps that depend on it become ready. `false`: the lease was lost before,
/// nothing was written.
pub async fn finish_inspect(db: &Db, claim: &Claim) -> Result<bool> {
    let mut tx = db.begin().await?;
    if !end_step_in(&mut tx, claim, StepState::Succeeded, None).await? {
        return Ok(false);
    }
    sqlx::query(
        "UPDATE steps SET pending_deps = pending_deps - 1 WHERE id IN (SELECT step_id FROM step_deps WHERE depends_on = ?)",
    )
    .bind(claim.step)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE steps SET state = 'ready', ready_at = ? WHERE job_id = ? AND state = 'waiting' AND pending_deps = 0",
    )
    .bind(Timestamp::now())
    .bind(claim.job)
    .execute(&mut *tx)
    .await?;
    insert_event_in(&mut tx, claim.job, Some(claim.step), EventKind::StepSucceeded, json!({ "kind": claim.kind }))
        .await?;
    db.commit(tx).await?;
    Ok(true)
}

/// Ends a `purify` step and with it the job. `false`: the lease was lost before, nothing was written.
pub async fn finish_purify(db: &Db, claim: &Claim, result: &Purified) -> Result<bool> {
    let mut tx = db.begin().await?;
    if !end_step_in(&mut tx, claim, StepState::Succeeded, None).await? {
        return Ok(false);
    }
    let purified = insert_artifact_in(&mut tx, &result.purified).await?;
    let signature = match &result.signature {
        Some(signature) => Some(insert_artifact_in(&mut tx, signature).await?),
        None => None,
    };
    sqlx::query("INSERT INTO reports (job_id, report) VALUES (?, ?)")
        .bind(claim.job)
        .bind(&result.report)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "UPDATE jobs SET state = 'succeeded', verdict_status = ?, purified_id = ?, signature_id = ?, finished_at = ?
         WHERE id = ?",
    )
    .bind(&result.verdict_status)
    .bind(purified)
    .bind(signature)
    .bind(Timestamp::now())
    .bind(claim.job)
    .execute(&mut *tx)
    .await?;
    insert_event_in(&mut tx, claim.job, Some(claim.step), EventKind::StepSucceeded, json!({ "kind": claim.kind }))
        .await?;
    let data = json!({ "verdict": result.verdict_status, "artifact_id": purified, "signature_id": signature });
    insert_event_in(&mut tx, claim.job, None, EventKind::JobSucceeded, data).await?;
    db.commit(tx).await?;
    Ok(true)
}

/// Ends an attempt that did not end well; another follows after `retry_delay` when the error and the attempts
/// allow it.
pub async fn end_attempt(db: &Db, claim: &Claim, end: &AttemptEnd, retry_delay: Duration) -> Result<Consequence> {
    let mut tx = db.begin().await?;
    let Some(cancel) = holds_lease_in(&mut tx, claim).await? else { return Ok(Consequence::LeaseLost) };
    let consequence = end_attempt_in(&mut tx, claim, cancel, end, retry_delay).await?;
    db.commit(tx).await?;
    Ok(consequence)
}

/// Ends a step because its job is to be cancelled, and the job with it. `false`: the lease was lost before.
pub async fn cancel_step(db: &Db, claim: &Claim) -> Result<bool> {
    let mut tx = db.begin().await?;
    if holds_lease_in(&mut tx, claim).await?.is_none() {
        return Ok(false);
    }
    close_job_in(&mut tx, claim.job, JobState::Cancelled).await?;
    db.commit(tx).await?;
    Ok(true)
}

/// Gives a step back unharmed because its worker shuts down in good order; the attempt does not count.
pub async fn release_step(db: &Db, claim: &Claim) -> Result<bool> {
    let mut tx = db.begin().await?;
    let changed = sqlx::query(
        "UPDATE steps SET state = 'ready', attempt = attempt - 1, ready_at = ?, lease_owner = NULL, lease_until = NULL
         WHERE id = ? AND fence = ? AND state = 'running'",
    )
    .bind(Timestamp::now())
    .bind(claim.step)
    .bind(claim.fence)
    .execute(&mut *tx)
    .await?;
    db.commit(tx).await?;
    Ok(changed.rows_affected() == 1)
}

/// Ends every attempt whose lease has run out as a crash. Returns how many there were.
pub async fn reap_expired_leases(db: &Db, retry_delay: Duration) -> Result<usize> {
    let mut tx = db.begin().await?;
    let count = reap_expired_leases_in(&mut tx, retry_delay).await?;
    if count > 0 {
        db.commit(tx).await?;
    }
    Ok(count)
}

pub(super) async fn reap_expired_leases_in(tx: &mut Tx, retry_delay: Duration) -> Result<usize> {
    let expired: Vec<Claim> = sqlx::query_as(
        "SELECT id, job_id, kind, attempt, max_attempts, fence FROM steps WHERE state = 'running' AND lease_until < ?",
    )
    .bind(Timestamp::now())
    .fetch_all(&mut **tx)
    .await?;
    for claim in &expired {
        let end = AttemptEnd::Crashed("the worker stopped renewing its lease".to_owned());
        // A step of a job that failed a moment ago in this loop is cancelled already.
        if let Some(cancel) = holds_lease_in(tx, claim).await? {
            end_attempt_in(tx, claim, cancel, &end, retry_delay).await?;
        }
    }
    Ok(expired.len())
}

/// The cancel flag, when the claim is still the newest one of a running step.
async fn holds_lease_in(tx: &mut Tx, claim: &Claim) -> Result<Option<bool>> {
    let cancel =
        sqlx::query_scalar("SELECT cancel_requested FROM steps WHERE id = ? AND fence = ? AND state = 'running'")
            .bind(claim.step)
            .bind(claim.fence)
            .fetch_optional(&mut **tx)
            .await?;
    Ok(cancel)
}

async fn end_attempt_in(
    tx: &mut Tx,
    claim: &Claim,
    cancel: bool,
    end: &AttemptEnd,
    retry_delay: Duration,
) -> Result<Consequence> {
    if cancel {
        close_job_in(tx, claim.job, JobState::Cancelled).await?;
        return Ok(Consequence::JobCancelled);
    }
    let failure = failure_of(end, claim);
    if failure.class == ErrorClass::Infrastructure && claim.attempt < claim.max_attempts {
        retry_step_in(tx, claim, &failure, retry_delay).await?;
        return Ok(Consequence::Retry);
    }
    end_step_in(tx, claim, StepState::Failed, Some(&failure)).await?;
    insert_event_in(tx, claim.job, Some(claim.step), EventKind::StepFailed, json!({ "error": failure })).await?;
    if matches!(end, AttemptEnd::Crashed(_)) {
        quarantine_submission_in(tx, claim.job, &failure.message).await?;
    }
    fail_job_in(tx, claim.job, &failure).await?;
    Ok(Consequence::JobFailed)
}

fn failure_of(end: &AttemptEnd, claim: &Claim) -> Failure {
    match end {
        AttemptEnd::Failed(failure) => failure.clone(),
        AttemptEnd::Crashed(seen) if claim.attempt < claim.max_attempts => {
            Failure { class: ErrorClass::Infrastructure, code: "worker_crashed".to_owned(), message: seen.clone() }
        }
        AttemptEnd::Crashed(seen) => Failure {
            class: ErrorClass::Infrastructure,
            code: CRASHED_REPEATEDLY.to_owned(),
            message: format!(
                "{} attempts ended without a result, the last one thus: {seen}. The submission is quarantined.",
                claim.attempt
            ),
        },
    }
}

async fn retry_step_in(tx: &mut Tx, claim: &Claim, failure: &Failure, delay: Duration) -> Result<()> {
    sqlx::query("UPDATE steps SET state = 'ready', ready_at = ?, lease_owner = NULL, lease_until = NULL WHERE id = ?")
        .bind(Timestamp::now().after(delay))
        .bind(claim.step)
        .execute(&mut **tx)
        .await?;
    let data = json!({ "attempt": claim.attempt, "error": failure });
    insert_event_in(tx, claim.job, Some(claim.step), EventKind::StepRetrying, data).await
}

async fn quarantine_submission_in(tx: &mut Tx, job: JobId, reason: &str) -> Result<()> {
    sqlx::query("UPDATE artifacts SET quarantine_reason = ? WHERE id = (SELECT artifact_id FROM jobs WHERE id = ?)")
        .bind(format!("job {job}: {reason}"))
        .bind(job)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Closes the step under its fence. `false`: the lease was lost before.
async fn end_step_in(tx: &mut Tx, claim: &Claim, state: StepState, failure: Option<&Failure>) -> Result<bool> {
    let changed = sqlx::query(
        "UPDATE steps SET state = ?, error_class = ?, error_code = ?, error_message = ?, finished_at = ?,
                lease_owner = NULL, lease_until = NULL
         WHERE id = ? AND fence = ? AND state = 'running'",
    )
    .bind(state)
    .bind(failure.map(|failure| failure.class))
    .bind(failure.map(|failure| &failure.code))
    .bind(failure.map(|failure| &failure.message))
    .bind(Timestamp::now())
    .bind(claim.step)
    .bind(claim.fence)
    .execute(&mut **tx)
    .await?;
    Ok(changed.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{StepId, StepKind};

    fn claim(attempt: i64) -> Claim {
        Claim {
            step: StepId::new(),
            job: JobId::new(),
            kind: StepKind::Purify,
            attempt,
            max_attempts: 3,
            fence: attempt,
        }
    }

    #[test]
    fn the_last_crash_is_told_apart_from_the_ones_before() {
        let end = AttemptEnd::Crashed("killed by signal 9".to_owned());
        assert_eq!(failure_of(&end, &claim(2)).code, "worker_crashed");
        let last = failure_of(&end, &claim(3));
        assert_eq!(last.code, CRASHED_REPEATEDLY);
        assert!(last.message.contains("killed by signal 9") && last.message.contains("3 attempts"));
    }
}
