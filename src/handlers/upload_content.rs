//! The bytes of an upload: one body, or file by file. Staged first, admitted second (`admission.rs`), never
//! both half.
//!
//! The work runs in a task of its own: when the caller hangs up, the handler is dropped, but its claim and
//! its bytes must still be given back.

use std::path::PathBuf;

use axum::{Json as JsonBody, body::Body, extract::State, http::HeaderMap};
use tracing::Instrument;

use super::admission::{Staged, admit};
use super::uploads::{check_sha256, find_upload};
use crate::app::App;
use crate::artifacts::{hash_file, list_files};
use crate::db;
use crate::db::{UploadId, UploadPurpose, UploadRow, UploadState};
use crate::error::{ApiResult, Kind, Problem, ProblemBody};
use crate::extract::{AnnouncedDigest, Expected, Json, Path, check_headers, receive_file};
use crate::views::{CompleteUpload, DeclaredFile, StagedFileView, UploadView};

/// Folder of finished single files inside an upload's staging folder.
const FILES: &str = "files";
/// Folder of single files that are still arriving.
const PARTS: &str = "parts";

/// Send an upload as one body, and have it inspected.
///
/// A tar, tar.gz or zip of the artifact's files; for purpose `rows`, JSON lines. `Content-Digest` or
/// `Repr-Digest` with `sha-256` are compared with what arrives. After a refusal for size or digest the upload
/// may be sent again; a refusal of the content is final. Either way nothing is kept.
#[utoipa::path(
    put, path = "/v1/uploads/{id}/content", tag = "uploads",
    params(("id" = UploadId, Path, description = "The upload")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "Inspected and stored; `artifact_id` names it", body = UploadView),
        (status = 400, description = "Size or digest is not the announced one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such upload", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Another request sends the bytes, or the upload has ended", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "More bytes than the service takes", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is encoded", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The content is refused; the code says why", body = ProblemBody, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn put_content(
    State(app): State<App>,
    Path(id): Path<UploadId>,
    AnnouncedDigest(digest): AnnouncedDigest,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<JsonBody<UploadView>> {
    let row = find_open_upload(&app, id).await?;
    let expected = Expected {
        bytes: row.declared_bytes.map(i64::cast_unsigned),
        sha256: row.declared_sha256.iter().cloned().chain(digest).collect(),
        limit_bytes: app.config.limits.upload_bytes,
    };
    check_headers(&headers, &expected)?;
    claim(&app, id).await?;
    in_own_task(async move {
        let outcome = receive_and_admit(&app, &row, body, &expected).await;
        settle(&app, id, outcome).await
    })
    .await
}

async fn receive_and_admit(app: &App, row: &UploadRow, body: Body, expected: &Expected) -> ApiResult<()> {
    let folder = app.store.staging().create(row.id)?;
    let path = folder.join("content");
    let received = receive_file(body, &path, expected).await?;
    admit(app, row, Staged { path, bytes: received.bytes, sha256: Some(received.sha256) }).await
}

/// Send one file of an upload. Send all of them, in any order, then `POST complete`.
///
/// With curl: `curl -T adapter_model.safetensors http://localhost:8080/v1/uploads/{id}/files/`.
#[utoipa::path(
    put, path = "/v1/uploads/{id}/files/{name}", tag = "uploads",
    params(("id" = UploadId, Path, description = "The upload"),
           ("name" = String, Path, description = "Letters, digits and `._-`, not beginning with a dot", example = "adapter_config.json")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "The file is staged; sent again, it replaces the earlier one", body = StagedFileView),
        (status = 400, description = "The digest is not the announced one, or the body is empty or broke off", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such upload", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Another request sends this file, or the upload has ended", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "More bytes or files than the service takes", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is encoded", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The name is no file name", body = ProblemBody, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn put_file(
    State(app): State<App>,
    Path((id, name)): Path<(UploadId, String)>,
    AnnouncedDigest(digest): AnnouncedDigest,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<JsonBody<StagedFileView>> {
    find_open_upload(&app, id).await?;
    check_name(&name)?;
    let others: Vec<StagedFileView> =
        staged_files(&app, id).await?.into_iter().filter(|file| file.name != name).collect();
    let limits = &app.config.limits;
    if others.len() as u64 >= limits.unpacked_files {
        let detail = format!("expected at most {} files, found one more", limits.unpacked_files);
        return Err(Problem::new(Kind::PayloadTooLarge, detail));
    }
    let room = limits.upload_bytes.saturating_sub(others.iter().map(|file| file.bytes).sum());
    let expected = Expected { bytes: None, sha256: digest.into_iter().collect(), limit_bytes: room };
    check_headers(&headers, &expected)?;
    in_own_task(async move { stage_file(&app, id, name, body, &expected).await.map(JsonBody) }).await
}

/// Receives beside the finished files and moves the file there when it is whole.
async fn stage_file(
    app: &App,
    id: UploadId,
    name: String,
    body: Body,
    expected: &Expected,
) -> ApiResult<StagedFileView> {
    let busy = || Problem::conflict(format!("another request is sending {name}"));
    let _reservation = app.reserve_file(id, &name).ok_or_else(busy)?;
    let folder = app.store.staging().dir(id);
    let (part, target) = (folder.join(PARTS).join(&name), folder.join(FILES).join(&name));
    for parent in [PARTS, FILES] {
        tokio::fs::create_dir_all(folder.join(parent)).await?;
    }
    let outcome = receive_file(body, &part, expected).await;
    let Ok(received) = outcome else {
        // The refusal matters more than a failure to clean up; the sweep of old uploads takes what is left.
        let _ = tokio::fs::remove_file(&part).await;
        return Err(outcome.expect_err("the other arm has the success"));
    };
    tokio::fs::rename(&part, &target).await?;
    Ok(StagedFileView { name, bytes: received.bytes })
}

/// End an upload that was sent file by file, and have it inspected.
#[utoipa::path(
    post, path = "/v1/uploads/{id}/complete", tag = "uploads",
    params(("id" = UploadId, Path, description = "The upload")),
    request_body(content = Option<CompleteUpload>),
    responses(
        (status = 200, description = "Inspected and stored; `artifact_id` names it", body = UploadView),
        (status = 400, description = "A file is not the announced one; nothing was changed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such upload", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "A file is still arriving, or the upload has ended", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "No file has arrived, or the content is refused; the code says why", body = ProblemBody, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn complete_upload(
    State(app): State<App>,
    Path(id): Path<UploadId>,
    request: Option<Json<CompleteUpload>>,
) -> ApiResult<JsonBody<UploadView>> {
    let row = find_open_upload(&app, id).await?;
    let files = staged_files(&app, id).await?;
    if files.is_empty() {
        let problem =
            Problem::new(Kind::InvalidRequest, "expected at least one file sent by PUT files/{name}, found none");
        return Err(problem.with_code("upload.empty"));
    }
    let folder = app.store.staging().dir(id).join(FILES);
    if let Some(declared) = request.and_then(|Json(request)| request.files) {
        let folder = folder.clone();
        tokio::task::spawn_blocking(move || compare_files(&folder, &files, &declared))
            .await
            .map_err(Problem::internal)??;
    }
    claim(&app, id).await?;
    in_own_task(async move {
        let outcome = admit(&app, &row, stage_of_files(&row, folder)).await;
        settle(&app, id, outcome).await
    })
    .await
}

/// Rows are one file, whatever its name; an artifact is the folder.
fn stage_of_files(row: &UploadRow, folder: PathBuf) -> Staged {
    let single =
        || list_files(&folder).ok().filter(|names| names.len() == 1).and_then(|names| names.into_iter().next());
    let path = match row.purpose {
        UploadPurpose::Rows => single().map_or(folder.clone(), |name| folder.join(name)),
        UploadPurpose::Artifact => folder,
    };
    Staged { path, bytes: 0, sha256: None }
}

/// Blocks: hashes every staged file.
fn compare_files(folder: &std::path::Path, staged: &[StagedFileView], declared: &[DeclaredFile]) -> ApiResult<()> {
    if let Some(extra) = staged.iter().find(|file| declared.iter().all(|known| known.name != file.name)) {
        return Err(Problem::invalid(
            "/files",
            format!("expected every file that arrived, {} is not listed", extra.name),
        ));
    }
    for (index, known) in declared.iter().enumerate() {
        let at = format!("/files/{index}");
        let Some(file) = staged.iter().find(|file| file.name == known.name) else {
            return Err(Problem::invalid(format!("{at}/name"), "expected the name of a file that arrived"));
        };
        if known.bytes.is_some_and(|bytes| bytes != file.bytes) {
            let detail = format!("{}: expected the announced size, found {} bytes", file.name, file.bytes);
            return Err(Problem::new(Kind::LengthMismatch, detail));
        }
        let Some(announced) = &known.sha256 else { continue };
        let announced = check_sha256(&format!("{at}/sha256"), announced)?;
        let (found, _) = hash_file(&folder.join(&file.name))?;
        if found != announced {
            let detail = format!("{}: expected the SHA-256 {announced}, found {found}", file.name);
            return Err(Problem::new(Kind::DigestMismatch, detail));
        }
    }
    Ok(())
}

/// The files that have arrived one by one.
pub(super) async fn staged_files(app: &App, id: UploadId) -> ApiResult<Vec<StagedFileView>> {
    let folder = app.store.staging().dir(id).join(FILES);
    let listed = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<StagedFileView>> {
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let view = |name: String| Ok(StagedFileView { bytes: folder.join(&name).metadata()?.len(), name });
        list_files(&folder)?.into_iter().map(view).collect()
    });
    Ok(listed.await.map_err(Problem::internal)??)
}

fn check_name(name: &str) -> ApiResult<()> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if plain && (1..=128).contains(&name.len()) && !name.starts_with('.') {
        return Ok(());
    }
    Err(Problem::invalid("name", "expected 1 to 128 letters, digits and ._- that do not begin with a dot"))
}

/// The upload if it still waits for bytes.
async fn find_open_upload(app: &App, id: UploadId) -> ApiResult<UploadRow> {
    let row = find_upload(app, id).await?;
    match row.state {
        UploadState::Created => Ok(row),
        UploadState::Receiving => {
            Err(Problem::conflict(format!("another request is sending the bytes of upload {id}")))
        }
        ended => Err(Problem::conflict(format!("upload {id} has ended ({ended:?}); announce a new one"))),
    }
}

/// Reserves the upload for this request; the loser of a race gets 409.
async fn claim(app: &App, id: UploadId) -> ApiResult<()> {
    if app.is_receiving(id) {
        return Err(Problem::conflict(format!("a file of upload {id} is still arriving")));
    }
    match db::claim_upload(&app.db, id).await? {
        true => Ok(()),
        false => Err(Problem::conflict(format!("another request is sending the bytes of upload {id}"))),
    }
}

/// Ends a claim: a refused content ends the upload, any other problem gives it back. The staged bytes go in
/// every case.
async fn settle(app: &App, id: UploadId, outcome: ApiResult<()>) -> ApiResult<JsonBody<UploadView>> {
    if let Err(error) = app.store.staging().remove(id) {
        tracing::warn!(upload = %id, %error, "the staged bytes could not be removed; the sweep will try again");
    }
    match &outcome {
        Ok(()) => {}
        Err(problem) if problem.kind == Kind::RejectedUpload => {
            db::reject_upload(&app.db, id, &problem.code, &problem.detail).await?;
        }
        Err(_) => db::release_upload(&app.db, id).await?,
    }
    outcome?;
    Ok(JsonBody(UploadView::new(find_upload(app, id).await?, Vec::new())))
}

/// Runs to the end even when the caller hangs up.
async fn in_own_task<T: Send + 'static>(work: impl Future<Output = ApiResult<T>> + Send + 'static) -> ApiResult<T> {
    tokio::spawn(work.in_current_span()).await.map_err(Problem::internal)?
}
