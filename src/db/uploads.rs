//! The `uploads` table: bytes on their way in, until inspection turns them into an artifact or refuses them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::artifacts::insert_artifact_in;
use super::{ArtifactId, Db, NewArtifact, Result, Timestamp, UploadId};

/// The purpose of an upload's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum UploadPurpose {
    /// A model or adapter to be vetted.
    Artifact,
    /// The caller's task rows, JSON lines, for healing and measuring.
    Rows,
}

/// The state of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum UploadState {
    /// Waits for its bytes.
    Created,
    /// A request is sending the bytes now.
    Receiving,
    /// Inspected and stored as an artifact.
    Accepted,
    /// Refused; the problem says why, and nothing of it was kept.
    Rejected,
    /// Nobody sent the bytes in time.
    Expired,
}

impl UploadState {
    /// True when nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Accepted | Self::Rejected | Self::Expired)
    }
}

/// One upload.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct UploadRow {
    /// Its id.
    pub id: UploadId,
    /// Its purpose.
    pub purpose: UploadPurpose,
    /// The name that the caller gave the file; never used as a path.
    pub file_name: Option<String>,
    /// The size that the caller announced.
    pub declared_bytes: Option<i64>,
    /// The SHA-256 that the caller announced, 64 hexadecimal digits.
    pub declared_sha256: Option<String>,
    /// Its state.
    pub state: UploadState,
    /// The size that arrived.
    pub received_bytes: Option<i64>,
    /// SHA-256 of what arrived.
    pub sha256: Option<String>,
    /// The artifact that it became.
    pub artifact_id: Option<ArtifactId>,
    /// Stable code of the refusal.
    pub problem_code: Option<String>,
    /// The refusal in words.
    pub problem_message: Option<String>,
    /// The moment at which it was announced.
    pub created_at: Timestamp,
    /// The moment of its last change.
    pub updated_at: Timestamp,
}

/// The facts that are known of an upload when it is announced.
#[derive(Debug, Clone)]
pub struct NewUpload {
    /// Its purpose.
    pub purpose: UploadPurpose,
    /// The caller's name for the file.
    pub file_name: Option<String>,
    /// Announced size.
    pub declared_bytes: Option<i64>,
    /// Announced SHA-256.
    pub declared_sha256: Option<String>,
}

/// Announces an upload.
pub async fn insert_upload(db: &Db, new: &NewUpload) -> Result<UploadRow> {
    let now = Timestamp::now();
    let row = sqlx::query_as(
        "INSERT INTO uploads (id, purpose, file_name, declared_bytes, declared_sha256, state, created_at, updated_at)
         VALUES (?, ?, ?, ?, ?, 'created', ?, ?) RETURNING *",
    )
    .bind(UploadId::new())
    .bind(new.purpose)
    .bind(&new.file_name)
    .bind(new.declared_bytes)
    .bind(&new.declared_sha256)
    .bind(now)
    .bind(now)
    .fetch_one(db.pool())
    .await?;
    Ok(row)
}

/// The upload called `id`.
pub async fn find_upload(db: &Db, id: UploadId) -> Result<Option<UploadRow>> {
    Ok(sqlx::query_as("SELECT * FROM uploads WHERE id = ?").bind(id).fetch_optional(db.pool()).await?)
}

/// Reserves the upload for the one request that sends its bytes. `false`: another request has it, or it has
/// ended.
pub async fn claim_upload(db: &Db, id: UploadId) -> Result<bool> {
    let changed =
        sqlx::query("UPDATE uploads SET state = 'receiving', updated_at = ? WHERE id = ? AND state = 'created'")
            .bind(Timestamp::now())
            .bind(id)
            .execute(db.pool())
            .await?;
    Ok(changed.rows_affected() == 1)
}

/// Gives a claimed upload back after its request broke off, so that the caller may send the bytes again.
pub async fn release_upload(db: &Db, id: UploadId) -> Result<()> {
    sqlx::query("UPDATE uploads SET state = 'created', updated_at = ? WHERE id = ? AND state = 'receiving'")
        .bind(Timestamp::now())
        .bind(id)
        .execute(db.pool())
        .await?;
    Ok(())
}

/// Gives back every claimed upload: for the start of a server, when no request of an earlier one can be
/// alive.
pub async fn release_interrupted_uploads(db: &Db) -> Result<u64> {
    let changed = sqlx::query("UPDATE uploads SET state = 'created', updated_at = ? WHERE state = 'receiving'")
        .bind(Timestamp::now())
        .execute(db.pool())
        .await?;
    Ok(changed.rows_affected())
}

/// Ends an upload with its artifact, in one transaction. Put the blobs into the store first. `None`: the
/// upload was deleted meanwhile.
pub async fn finish_upload(
    db: &Db,
    id: UploadId,
    received_bytes: i64,
    sha256: &str,
    artifact: &NewArtifact,
) -> Result<Option<ArtifactId>> {
    let mut tx = db.begin().await?;
    let artifact_id = insert_artifact_in(&mut tx, artifact).await?;
    let changed = sqlx::query(
        "UPDATE uploads SET state = 'accepted', received_bytes = ?, sha256 = ?, artifact_id = ?, updated_at = ?
         WHERE id = ? AND state = 'receiving'",
    )
    .bind(received_bytes)
    .bind(sha256)
    .bind(artifact_id)
    .bind(Timestamp::now())
    .bind(id)
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(None);
    }
    db.commit(tx).await?;
    Ok(Some(artifact_id))
}

/// Ends an upload with a refusal.
pub async fn reject_upload(db: &Db, id: UploadId, code: &str, message: &str) -> Result<()> {
    sqlx::query(
        "UPDATE uploads SET state = 'rejected', problem_code = ?, problem_message = ?, updated_at = ?
         WHERE id = ? AND state = 'receiving'",
    )
    .bind(code)
    .bind(message)
    .bind(Timestamp::now())
    .bind(id)
    .execute(db.pool())
    .await?;
    Ok(())
}

/// Removes an upload; its artifact stays. `false`: there is none. Remove the staged bytes afterwards.
pub async fn delete_upload(db: &Db, id: UploadId) -> Result<bool> {
    let changed = sqlx::query("DELETE FROM uploads WHERE id = ?").bind(id).execute(db.pool()).await?;
    Ok(changed.rows_affected() == 1)
}

/// Marks uploads that are still without bytes since before `moment` as expired, and names them.
pub async fn expire_uploads(db: &Db, moment: Timestamp) -> Result<Vec<UploadId>> {
    let ids = sqlx::query_scalar(
        "UPDATE uploads SET state = 'expired', updated_at = ?
         WHERE state IN ('created', 'receiving') AND updated_at < ? RETURNING id",
    )
    .bind(Timestamp::now())
    .bind(moment)
    .fetch_all(db.pool())
    .await?;
    Ok(ids)
}
