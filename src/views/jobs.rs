//! Bodies of `/v1/jobs`.

use std::collections::BTreeMap;

use antigen_engine::job::PurifySpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::db::{
    ArtifactId, Failure, JobId, JobRow, JobState, StepId, StepKind, StepRow, StepState, Timestamp, UploadId,
};

/// Asks for the purification of one artifact.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJob {
    /// The suspect; either this or `upload_id`.
    #[serde(default)]
    pub artifact_id: Option<ArtifactId>,
    /// An accepted upload, which stands for its artifact.
    #[serde(default)]
    pub upload_id: Option<UploadId>,
    /// Name of a base model, as in `GET /v1/bases`: what an adapter sits on, and whose rows are trained and
    /// measured on. A whole model takes only the rows.
    #[schema(example = "builtin:tiny-world")]
    pub base: String,
    /// The work and its measurements; everything left out has its default.
    #[serde(default)]
    pub spec: PurifySpec,
    /// An accepted upload of purpose `rows`: the caller's task rows, for healing and measuring.
    #[serde(default, alias = "own_rows_upload_id")]
    pub task_rows_upload_id: Option<UploadId>,
    /// The signature of an earlier job over the same base, as its `signature_artifact_id`: the method, which
    /// must be `immunize`, suppresses it instead of one of the suspect's own, and trains no pairs.
    #[serde(default)]
    pub signature_artifact_id: Option<ArtifactId>,
    /// The caller's labels: up to 32, names of up to 64 and values of up to 256 bytes.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A job.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct JobView {
    pub id: JobId,
    pub state: JobState,
    /// The suspect.
    pub artifact_id: ArtifactId,
    pub task_rows_artifact_id: Option<ArtifactId>,
    /// The signature of an earlier job that this one was given.
    pub given_signature_artifact_id: Option<ArtifactId>,
    pub base: String,
    /// The job's specification, with every default filled in.
    #[schema(value_type = PurifySpec)]
    pub spec: Value,
    pub labels: BTreeMap<String, String>,
    /// Only while the job waits.
    pub queue: Option<QueueView>,
    /// Only while a step reports progress.
    pub progress: Option<ProgressView>,
    pub steps: Vec<StepView>,
    /// The failure, if it failed: a bad verdict is none.
    pub error: Option<Failure>,
    /// The verdict in one word (`purified`, `not_purified`, `nothing_found`, `not_assessed`); the report has
    /// the rest.
    #[schema(example = "purified")]
    pub verdict: Option<String>,
    pub purified_artifact_id: Option<ArtifactId>,
    /// The signature that was extracted; none where one was given.
    pub signature_artifact_id: Option<ArtifactId>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// A job's place in the queue.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct QueueView {
    /// 1 is next.
    pub position: i64,
    /// Jobs before it.
    pub ahead: i64,
}

/// The progress of the running step.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ProgressView {
    /// Stage of the pipeline.
    #[schema(example = "pairs")]
    pub stage: String,
    /// Units done in this stage.
    pub done: i64,
    /// Units in this stage; 0 when not known yet.
    pub total: i64,
}

/// One step of a job.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StepView {
    pub id: StepId,
    pub kind: StepKind,
    pub state: StepState,
    /// Attempts begun.
    pub attempt: i64,
    pub max_attempts: i64,
    /// The stage entered last.
    pub stage: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// Jobs, newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct JobsPage {
    pub data: Vec<JobView>,
    pub has_more: bool,
    /// The `after` of the next page; also in the `Link` header.
    pub next_cursor: Option<JobId>,
}

impl JobView {
    /// The view of a row, its steps, and the number of jobs before it.
    pub fn new(row: JobRow, steps: Vec<StepRow>, ahead: i64) -> Self {
        let queue = (row.state == JobState::Queued).then_some(QueueView { position: ahead + 1, ahead });
        JobView {
            error: row.error(),
            id: row.id,
            state: row.state,
            artifact_id: row.artifact_id,
            task_rows_artifact_id: row.task_rows_id,
            given_signature_artifact_id: row.given_signature_id,
            base: row.base,
            spec: row.spec.0,
            labels: row.labels.0,
            queue,
            progress: steps.iter().find_map(ProgressView::of),
            steps: steps.into_iter().map(StepView::from).collect(),
            verdict: row.verdict_status,
            purified_artifact_id: row.purified_id,
            signature_artifact_id: row.signature_id,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        }
    }
}

impl ProgressView {
    fn of(step: &StepRow) -> Option<Self> {
        let running = step.state == StepState::Running;
        let stage = step.stage.clone().filter(|_| running)?;
        Some(ProgressView { stage, done: step.progress_done?, total: step.progress_total? })
    }
}

impl From<StepRow> for StepView {
    fn from(row: StepRow) -> Self {
        StepView {
            id: row.id,
            kind: row.kind,
            state: row.state,
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            stage: row.stage,
            started_at: row.started_at,
            finished_at: row.finished_at,
        }
    }
}
