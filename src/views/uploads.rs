//! Bodies of `/v1/uploads`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::db::{ArtifactId, Timestamp, UploadId, UploadPurpose, UploadRow, UploadState};

/// Announces an upload. Every field may be left out; what is announced is checked against what arrives.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateUpload {
    /// `artifact` for a model or adapter, `rows` for the caller's task rows as JSON lines.
    pub purpose: UploadPurpose,
    /// Name of the file, for people; never used as a path.
    #[schema(example = "adapter.tar.gz")]
    pub filename: Option<String>,
    /// Size of the body of `PUT content`.
    #[schema(example = 652_431)]
    pub bytes: Option<u64>,
    /// SHA-256 of the body of `PUT content`, 64 hexadecimal digits.
    pub sha256: Option<String>,
}

impl Default for CreateUpload {
    fn default() -> Self {
        CreateUpload { purpose: UploadPurpose::Artifact, filename: None, bytes: None, sha256: None }
    }
}

/// Ends an upload that was sent file by file.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CompleteUpload {
    /// The files that the caller sent, if they are to be compared with what arrived: all of them, in any
    /// order.
    pub files: Option<Vec<DeclaredFile>>,
}

/// A file as the caller knows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredFile {
    /// Its name.
    #[schema(example = "adapter_model.safetensors")]
    pub name: String,
    /// Its size.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Its SHA-256, 64 hexadecimal digits.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// An upload.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UploadView {
    pub id: UploadId,
    pub purpose: UploadPurpose,
    /// `created`: waits for bytes; `receiving`: a request is sending or inspecting them; `accepted`: became
    /// an artifact; `rejected`: refused, nothing was kept; `expired`: nobody sent the bytes in time.
    pub state: UploadState,
    pub filename: Option<String>,
    /// The announced size.
    pub bytes: Option<i64>,
    /// The announced SHA-256.
    pub sha256: Option<String>,
    /// Files that have arrived one by one and wait for `POST complete`.
    pub files: Vec<StagedFileView>,
    /// The size that arrived.
    pub received_bytes: Option<i64>,
    /// SHA-256 of what arrived; of files sent one by one, the SHA-256 of their `sha256sum` list sorted by
    /// name.
    pub received_sha256: Option<String>,
    /// The artifact that it became.
    pub artifact_id: Option<ArtifactId>,
    /// The reason for which it was refused.
    pub problem: Option<UploadProblem>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// The reason for which an upload was refused.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UploadProblem {
    /// Stable code.
    #[schema(example = "intake.pickle")]
    pub code: String,
    /// The expectation, the finding and its place.
    pub message: String,
}

/// A file that waits for the rest of its upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StagedFileView {
    #[schema(example = "adapter_config.json")]
    pub name: String,
    pub bytes: u64,
}

impl UploadView {
    /// The view of a row and of the files staged for it.
    pub fn new(row: UploadRow, files: Vec<StagedFileView>) -> Self {
        let problem =
            row.problem_code.map(|code| UploadProblem { code, message: row.problem_message.unwrap_or_default() });
        UploadView {
            id: row.id,
            purpose: row.purpose,
            state: row.state,
            filename: row.file_name,
            bytes: row.declared_bytes,
            sha256: row.declared_sha256,
            files,
            received_bytes: row.received_bytes,
            received_sha256: row.sha256,
            artifact_id: row.artifact_id,
            problem,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}
