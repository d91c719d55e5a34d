//! From staged bytes to an artifact, or to a refusal: inspection, quarantine check, blobs, rows.
//!
//! Whoever calls holds the claim on the upload and removes the staging folder afterwards, whatever the
//! outcome.

use std::path::{Path, PathBuf};

use antigen_engine::data::read_rows;
use antigen_engine::error::EngineError;
use serde_json::{Value, json};

use crate::app::App;
use crate::db::{ArtifactFile, ArtifactOrigin, ArtifactType, NewArtifact, UploadPurpose, UploadRow, digest_of_files};
use crate::error::{ApiResult, Kind, Problem};
use crate::intake::{ArtifactFacts, ArtifactKind, Rejection, code};
use crate::{db, intake};

/// Bytes that wait for a decision.
pub(super) struct Staged {
    /// A file, or a folder of single files.
    pub path: PathBuf,
    /// Size of the body; 0 for a folder, whose size is that of its artifact.
    pub bytes: u64,
    /// SHA-256 of the body; none for a folder, whose digest is that of its artifact.
    pub sha256: Option<String>,
}

/// Inspects staged bytes, stores what is acceptable and ends the upload with its artifact.
pub(super) async fn admit(app: &App, upload: &UploadRow, staged: Staged) -> ApiResult<()> {
    let unpacked = app.store.staging().dir(upload.id).join("unpacked");
    let (kind, facts) = inspect(app, upload.purpose, staged.path, unpacked.clone()).await?;
    let files = app.store.put_folder(&unpacked).await?;
    let digest = digest_of_files(&files);
    refuse_quarantined(app, &digest).await?;
    let size = files.iter().map(|file: &ArtifactFile| file.bytes).sum();
    let bytes = if staged.sha256.is_some() { staged.bytes.cast_signed() } else { size };
    let sha256 = staged.sha256.unwrap_or(digest);
    let artifact = NewArtifact { kind, origin: ArtifactOrigin::Uploaded, facts, files };
    match db::finish_upload(&app.db, upload.id, bytes, &sha256, &artifact).await? {
        Some(_) => Ok(()),
        None => Err(Problem::conflict(format!("upload {} was deleted meanwhile", upload.id))),
    }
}

/// Inspection reads files and computes: it has a thread of its own.
async fn inspect(
    app: &App,
    purpose: UploadPurpose,
    staged: PathBuf,
    into: PathBuf,
) -> ApiResult<(ArtifactType, Value)> {
    let limits = app.intake_limits();
    let work = move || match purpose {
        UploadPurpose::Artifact => {
            let facts = intake::inspect_upload(&staged, &limits, &into).map_err(refusal)?;
            Ok((artifact_type(facts.kind), facts_json(&facts)?))
        }
        UploadPurpose::Rows => inspect_rows(&staged, &into),
    };
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)?
}

fn artifact_type(kind: ArtifactKind) -> ArtifactType {
    match kind {
        ArtifactKind::Adapter => ArtifactType::Adapter,
        ArtifactKind::Checkpoint => ArtifactType::Checkpoint,
    }
}

/// The facts without the list of files, which has rows of its own.
fn facts_json(facts: &ArtifactFacts) -> ApiResult<Value> {
    let mut json = serde_json::to_value(facts).map_err(Problem::internal)?;
    if let Some(fields) = json.as_object_mut() {
        fields.remove("files");
        fields.remove("kind");
    }
    Ok(json)
}

/// Checks the caller's rows line by line and keeps the file as it came.
fn inspect_rows(staged: &Path, into: &Path) -> ApiResult<(ArtifactType, Value)> {
    if staged.is_dir() {
        return Err(rejected("rows.files", "expected one file of rows, found several"));
    }
    let rows = read_rows(staged).map_err(|error| match error {
        EngineError::Data(message) => rejected("rows.invalid", message),
        other => Problem::internal(other),
    })?;
    std::fs::create_dir_all(into)?;
    std::fs::rename(staged, into.join("rows.jsonl"))?;
    let mut kinds: Vec<&str> = rows.iter().filter_map(|row| row.kind.as_deref()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    Ok((ArtifactType::Rows, json!({ "rows": rows.len(), "kinds": kinds })))
}

/// The same bytes that made workers crash stay refused, whoever sends them.
async fn refuse_quarantined(app: &App, digest: &str) -> ApiResult<()> {
    match db::find_quarantine(&app.db, digest).await? {
        Some(reason) => Err(rejected("intake.quarantined", format!("these files are quarantined: {reason}"))),
        None => Ok(()),
    }
}

fn rejected(code: &'static str, message: impl Into<String>) -> Problem {
    Problem::new(Kind::RejectedUpload, message).with_code(code)
}

/// Our own failures are ours, everything else is the submitter's.
fn refusal(rejection: Rejection) -> Problem {
    if rejection.code == code::STORAGE_FULL {
        return Problem::store_full(rejection);
    }
    if rejection.is_ours() {
        return Problem::internal(rejection);
    }
    let detail = match &rejection.at {
        Some(place) => format!("{}; at {place}", rejection.message),
        None => rejection.message,
    };
    rejected(rejection.code, detail)
}
