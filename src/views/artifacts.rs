//! Bodies of `/v1/artifacts`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::db::{ArtifactFile, ArtifactId, ArtifactOrigin, ArtifactRow, ArtifactType, Timestamp};

/// An artifact: an immutable list of files.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ArtifactView {
    pub id: ArtifactId,
    pub kind: ArtifactType,
    /// `uploaded` artifacts are unvetted; `produced` ones were made by a job.
    pub origin: ArtifactOrigin,
    /// SHA-256 of the artifact's `sha256sum` list sorted by path: equal digests, equal content.
    pub sha256: String,
    /// Total size of its files.
    pub bytes: i64,
    /// Facts from the inspection (their shape depends on `kind`).
    #[schema(value_type = Object)]
    pub facts: Value,
    /// The reason for which no job may use it any more, if there is one.
    pub quarantine_reason: Option<String>,
    pub files: Vec<FileView>,
    /// The whole as a tar stream. Uploaded artifacts need `?i_understand=quarantined` as well.
    #[schema(example = "/v1/artifacts/art_01jd3p8f9e7r6t5w4q3x2z1y0a/download")]
    pub download: String,
    pub created_at: Timestamp,
}

/// One file of an artifact.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FileView {
    #[schema(example = "adapter_model.safetensors")]
    pub path: String,
    pub bytes: i64,
    /// SHA-256 of its bytes, 64 hexadecimal digits.
    pub sha256: String,
    /// Path of the download.
    pub download: String,
}

/// The files of an artifact: a manifest that `sha256sum` can check after
/// `jq -r '.data[] | "\(.sha256)  \(.path)"'`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FilesView {
    /// SHA-256 of the list, as in the artifact.
    pub sha256: String,
    pub data: Vec<FileView>,
}

impl ArtifactView {
    /// The view of a row and its files.
    pub fn new(row: ArtifactRow, files: Vec<ArtifactFile>) -> Self {
        ArtifactView {
            id: row.id,
            kind: row.kind,
            origin: row.origin,
            sha256: row.digest,
            bytes: row.bytes,
            facts: row.facts.0,
            quarantine_reason: row.quarantine_reason,
            files: files.into_iter().map(|file| FileView::new(row.id, file)).collect(),
            download: format!("/v1/artifacts/{}/download", row.id),
            created_at: row.created_at,
        }
    }
}

impl FileView {
    fn new(id: ArtifactId, file: ArtifactFile) -> Self {
        let download = format!("/v1/artifacts/{id}/files/{}", file.path);
        FileView { path: file.path, bytes: file.bytes, sha256: file.sha256, download }
    }
}
