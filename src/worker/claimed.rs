//! One claimed step from its work folder to its last transaction.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use antigen_engine::suspect::{Submission, Submitted};
use anyhow::Context;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Workplace;
use super::child::{Ending, StepChild};
use super::folder::WorkFolder;
use super::lease::Lease;
use super::progress::ProgressRecorder;
use super::protocol::{Made, StepOrder};
use crate::artifacts::StoreError;
use crate::config::Base;
use crate::db;
use crate::db::{
    ArtifactOrigin, ArtifactType, AttemptEnd, Claim, Consequence, ErrorClass, Failure, JobRow, NewArtifact, Purified,
    StepKind,
};
use crate::judge::judge_json;

/// Works on a claimed step until it has ended, one way or another.
///
/// # Errors
/// The database refuses; the lease then runs out and the step is tried again.
pub async fn work_on(place: &Arc<Workplace>, claim: &Claim, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let mut lease = Lease::keep(&place.config, claim).context("starting the lease thread")?;
    let folder = WorkFolder::of_job(&place.config.work_dir(), claim.job);
    let ending = match prepare_folder(place, claim, &folder).await? {
        Ok(()) => attend_child(place, claim, &folder, &mut lease, shutdown).await?,
        Err(failure) => Ending::Failed(failure),
    };
    tracing::info!(job = %claim.job, step = ?claim.kind, attempt = claim.attempt, ending = ending.name(), "step ended");
    record_ending(place, claim, ending).await?;
    if !db::job_is_open(&place.db, claim.job).await? {
        folder.remove().with_context(|| format!("removing {}", folder.root().display()))?;
    }
    Ok(())
}

/// Puts the submission and the order into the work folder. The outer error is the database's, the inner one
/// the step's.
async fn prepare_folder(place: &Workplace, claim: &Claim, folder: &WorkFolder) -> anyhow::Result<Result<(), Failure>> {
    let job = db::find_job(&place.db, claim.job).await?.context("a step without a job")?;
    let Some(base) = place.config.base(&job.base) else { return Ok(Err(unknown_base(&job.base))) };
    if let Err(error) = fetch_inputs(place, &job, folder).await? {
        return Ok(Err(machine_failure("worker.fetch", error)));
    }
    let order = order_of(place, claim.kind, &job, &base, folder).and_then(|order| folder.write_order(&order));
    Ok(order.map_err(|error| machine_failure("worker.folder", error)))
}

fn order_of(
    place: &Workplace,
    kind: StepKind,
    job: &JobRow,
    base: &Base,
    folder: &WorkFolder,
) -> io::Result<StepOrder> {
    let submission = Submission {
        suspect: Submitted::in_folder(&folder.input_dir(), &base.dir),
        train_rows: base.train_rows(),
        test_rows: base.test_rows(),
        task_rows: job.task_rows_id.map(|_| only_file(&folder.task_rows_dir())).transpose()?,
        calibration_dir: Some(base.dir.clone()),
        base_dir: Some(base.dir.clone()),
        signature: job.given_signature_id.map(|_| only_file(&folder.signature_dir())).transpose()?,
        folders: place.config.evaluators.folders(),
    };
    Ok(StepOrder {
        job: job.id,
        kind,
        device: place.config.worker.device.clone(),
        memory_bytes: place.config.worker.memory_bytes,
        precision: place.config.worker.precision,
        submission,
        spec: job.spec.0.clone(),
    })
}

/// Task rows and signatures come as an artifact of one file, whatever its name.
fn only_file(dir: &Path) -> io::Result<PathBuf> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "expected one file, found none");
    Ok(fs::read_dir(dir)?.next().ok_or_else(none)??.path())
}

async fn fetch_inputs(place: &Workplace, job: &JobRow, folder: &WorkFolder) -> anyhow::Result<Result<(), StoreError>> {
    let inputs = [
        (Some(job.artifact_id), folder.input_dir()),
        (job.task_rows_id, folder.task_rows_dir()),
        (job.given_signature_id, folder.signature_dir()),
    ];
    for (artifact, into) in inputs {
        let Some(artifact) = artifact else { continue };
        let files = db::list_artifact_files(&place.db, artifact).await?;
        if let Err(error) = place.store.fetch_to(&files, &into).await {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

async fn attend_child(
    place: &Workplace,
    claim: &Claim,
    folder: &WorkFolder,
    lease: &mut Lease,
    shutdown: &CancellationToken,
) -> anyhow::Result<Ending> {
    let child = match StepChild::start(&place.program, folder.root(), &place.config.log) {
        Ok(child) => child,
        Err(error) => return Ok(Ending::Failed(machine_failure("worker.spawn", error))),
    };
    let mut progress = ProgressRecorder::new(&place.db, claim);
    Ok(child.attend(&place.config.worker, lease, &mut progress, shutdown).await)
}

async fn record_ending(place: &Workplace, claim: &Claim, ending: Ending) -> db::Result<()> {
    match ending {
        Ending::Finished(made) => finish(place, claim, made).await,
        Ending::Failed(failure) => end_attempt(place, claim, AttemptEnd::Failed(failure)).await,
        Ending::Crashed(seen) => end_attempt(place, claim, AttemptEnd::Crashed(seen)).await,
        Ending::Cancelled => db::cancel_step(&place.db, claim).await.map(drop),
        Ending::ShutDown => db::release_step(&place.db, claim).await.map(drop),
        Ending::LeaseLost => {
            metrics::counter!("antigen_lease_lost_total").increment(1);
            Ok(())
        }
    }
}

async fn finish(place: &Workplace, claim: &Claim, made: Option<Made>) -> db::Result<()> {
    let held = match made {
        None => db::finish_inspect(&place.db, claim).await?,
        Some(made) => match store_result(place, claim, &made).await {
            Ok(result) => db::finish_purify(&place.db, claim, &result).await?,
            Err(error) => {
                let failure = machine_failure("worker.store", format!("{error:#}"));
                return end_attempt(place, claim, AttemptEnd::Failed(failure)).await;
            }
        },
    };
    if !held {
        tracing::warn!(job = %claim.job, fence = claim.fence, "a late result was not written: the step is another's now");
    }
    Ok(())
}

/// Blobs first, rows later: until the transaction that names them, nothing has happened.
async fn store_result(place: &Workplace, claim: &Claim, made: &Made) -> anyhow::Result<Purified> {
    let job = db::find_job(&place.db, claim.job).await?.context("a step without a job")?;
    let suspect = db::find_artifact(&place.db, job.artifact_id).await?.context("a job without a suspect")?;
    let report = tokio::fs::read_to_string(&made.report_path).await.context("reading the report")?;
    let evaluators = &place.config.evaluators;
    let report = judge_json(&evaluators.judge, evaluators.folders().mt_bench.as_deref(), report).await?;
    let purified = place.store.put_folder(&made.artifact_dir).await?;
    let mut signature = Vec::new();
    if let Some(path) = &made.signature_path {
        let name = path.file_name().and_then(|name| name.to_str()).context("the signature has no name")?;
        signature.push(place.store.put_file(path, name).await?);
    }
    let produced = |kind, files| NewArtifact { kind, origin: ArtifactOrigin::Produced, facts: Value::Null, files };
    Ok(Purified {
        report,
        verdict_status: made.verdict_status.clone(),
        purified: produced(suspect.kind, purified),
        signature: (!signature.is_empty()).then(|| produced(ArtifactType::Signature, signature)),
    })
}

async fn end_attempt(place: &Workplace, claim: &Claim, end: AttemptEnd) -> db::Result<()> {
    let consequence = db::end_attempt(&place.db, claim, &end, retry_delay(place, claim)).await?;
    match consequence {
        Consequence::Retry => {
            tracing::warn!(job = %claim.job, attempt = claim.attempt, ?end, "attempt ended; another follows")
        }
        consequence => tracing::info!(job = %claim.job, ?consequence, "attempt ended"),
    }
    Ok(())
}

fn retry_delay(place: &Workplace, claim: &Claim) -> Duration {
    place.config.worker.retry_delay(u32::try_from(claim.attempt + 1).unwrap_or(u32::MAX))
}

fn unknown_base(name: &str) -> Failure {
    Failure {
        class: ErrorClass::Infrastructure,
        code: "worker.base".to_owned(),
        message: format!("base `{name}`: expected a base that this worker's settings register, found none"),
    }
}

fn machine_failure(code: &str, error: impl std::fmt::Display) -> Failure {
    Failure { class: ErrorClass::Infrastructure, code: code.to_owned(), message: error.to_string() }
}
