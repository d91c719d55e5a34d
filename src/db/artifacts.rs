//! The `artifacts` and `artifact_files` tables: named lists of immutable blobs, uploaded or produced by a
//! job.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use utoipa::ToSchema;

use super::dialect::Tx;
use super::{ArtifactId, Db, Result, Timestamp};

/// The kind of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum ArtifactType {
    /// A PEFT LoRA adapter.
    Adapter,
    /// A whole model.
    Checkpoint,
    /// Rows as JSON lines.
    Rows,
    /// A signature extracted from a suspect.
    Signature,
}

/// The origin of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum ArtifactOrigin {
    /// A caller sent it: not to be trusted.
    Uploaded,
    /// A job made it.
    Produced,
}

/// One artifact.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ArtifactRow {
    /// Its id.
    pub id: ArtifactId,
    /// Its kind.
    pub kind: ArtifactType,
    /// Its origin.
    pub origin: ArtifactOrigin,
    /// SHA-256 over its sorted list of files: equal digests, equal content.
    pub digest: String,
    /// Total size.
    pub bytes: i64,
    /// Facts from the inspection.
    pub facts: Json<serde_json::Value>,
    /// The reason for which no job may use it any more.
    pub quarantine_reason: Option<String>,
    /// The moment at which it was stored.
    pub created_at: Timestamp,
}

/// One file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct ArtifactFile {
    /// Path inside the artifact, with `/`.
    pub path: String,
    /// Size.
    pub bytes: i64,
    /// SHA-256 of its bytes, 64 hexadecimal digits: the blob in the store.
    pub sha256: String,
}

/// An artifact about to be recorded. Its blobs are in the store already.
#[derive(Debug, Clone)]
pub struct NewArtifact {
    /// Its kind.
    pub kind: ArtifactType,
    /// Its origin.
    pub origin: ArtifactOrigin,
    /// Facts from the inspection.
    pub facts: serde_json::Value,
    /// Its files.
    pub files: Vec<ArtifactFile>,
}

/// The outcome of an attempt to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone.
    Deleted,
    /// There was none.
    NotFound,
    /// Something still needs it: a job that uses the artifact, or a job that is not finished.
    InUse,
}

/// SHA-256 over one line `<sha256>  <path>` per file, sorted by path: what `sha256sum` prints for the same
/// folder.
pub fn digest_of_files(files: &[ArtifactFile]) -> String {
    let mut lines: Vec<String> = files.iter().map(|file| format!("{}  {}\n", file.sha256, file.path)).collect();
    lines.sort_by(|a, b| a[64..].cmp(&b[64..]));
    let mut hasher = Sha256::new();
    lines.iter().for_each(|line| hasher.update(line));
    format!("{:x}", hasher.finalize())
}

/// Records an artifact.
pub async fn insert_artifact(db: &Db, new: &NewArtifact) -> Result<ArtifactId> {
    let mut tx = db.begin().await?;
    let id = insert_artifact_in(&mut tx, new).await?;
    db.commit(tx).await?;
    Ok(id)
}

/// Records an artifact as part of a larger change.
pub(super) async fn insert_artifact_in(tx: &mut Tx, new: &NewArtifact) -> Result<ArtifactId> {
    let id = ArtifactId::new();
    sqlx::query(
        "INSERT INTO artifacts (id, kind, origin, digest, bytes, facts, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(id)
    .bind(new.kind)
    .bind(new.origin)
    .bind(digest_of_files(&new.files))
    .bind(new.files.iter().map(|file| file.bytes).sum::<i64>())
    .bind(Json(&new.facts))
    .bind(Timestamp::now())
    .execute(&mut **tx)
    .await?;
    for file in &new.files {
        sqlx::query("INSERT INTO artifact_files (artifact_id, path, bytes, sha256) VALUES (?, ?, ?, ?)")
            .bind(id)
            .bind(&file.path)
            .bind(file.bytes)
            .bind(&file.sha256)
            .execute(&mut **tx)
            .await?;
    }
    Ok(id)
}

/// The artifact called `id`.
pub async fn find_artifact(db: &Db, id: ArtifactId) -> Result<Option<ArtifactRow>> {
    Ok(sqlx::query_as("SELECT * FROM artifacts WHERE id = ?").bind(id).fetch_optional(db.pool()).await?)
}

/// The files of an artifact, by path.
pub async fn list_artifact_files(db: &Db, id: ArtifactId) -> Result<Vec<ArtifactFile>> {
    let files = sqlx::query_as("SELECT path, bytes, sha256 FROM artifact_files WHERE artifact_id = ? ORDER BY path")
        .bind(id)
        .fetch_all(db.pool())
        .await?;
    Ok(files)
}

/// The reason for which content is quarantined, if it is: the same bytes uploaded again stay refused.
pub async fn find_quarantine(db: &Db, digest: &str) -> Result<Option<String>> {
    let reason = sqlx::query_scalar(
        "SELECT quarantine_reason FROM artifacts WHERE digest = ? AND quarantine_reason IS NOT NULL LIMIT 1",
    )
    .bind(digest)
    .fetch_optional(db.pool())
    .await?;
    Ok(reason)
}

/// Removes an artifact that no job uses. Its blobs are swept later, if nothing else has them.
pub async fn delete_artifact(db: &Db, id: ArtifactId) -> Result<Deletion> {
    let mut tx = db.begin().await?;
    let jobs: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM jobs WHERE artifact_id = ?1 OR task_rows_id = ?1 OR given_signature_id = ?1
         OR purified_id = ?1 OR signature_id = ?1",
    )
    .bind(id)
    .fetch_one(&mut *tx)
    .await?;
    if jobs > 0 {
        return Ok(Deletion::InUse);
    }
    let changed = sqlx::query("DELETE FROM artifacts WHERE id = ?").bind(id).execute(&mut *tx).await?;
    db.commit(tx).await?;
    Ok(if changed.rows_affected() == 1 { Deletion::Deleted } else { Deletion::NotFound })
}

/// True while any artifact still has the blob.
pub async fn blob_is_used(db: &Db, sha256: &str) -> Result<bool> {
    let used: i64 = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM artifact_files WHERE sha256 = ?)")
        .bind(sha256)
        .fetch_one(db.pool())
        .await?;
    Ok(used == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, digit: char) -> ArtifactFile {
        ArtifactFile { path: path.into(), bytes: 1, sha256: digit.to_string().repeat(64) }
    }

    #[test]
    fn the_digest_of_an_artifact_does_not_depend_on_the_order_of_its_files() {
        let (a, b) = (file("a", 'f'), file("b", '0'));
        assert_eq!(digest_of_files(&[a.clone(), b.clone()]), digest_of_files(&[b, a]));
    }

    #[test]
    fn the_digest_of_an_artifact_names_its_files() {
        assert_ne!(digest_of_files(&[file("a", '1')]), digest_of_files(&[file("b", '1')]));
    }
}
