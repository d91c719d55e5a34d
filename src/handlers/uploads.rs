//! `/v1/uploads`: announce, show, delete. The bytes themselves are in `upload_content.rs`.

use axum::{
    Json as Body,
    extract::State,
    http::{HeaderName, StatusCode, header::LOCATION},
};

use crate::app::App;
use crate::db;
use crate::db::{NewUpload, UploadId, UploadRow, UploadState};
use crate::error::{ApiResult, Kind, Problem, ProblemBody};
use crate::extract::{Json, Path};
use crate::handlers::upload_content::staged_files;
use crate::views::{CreateUpload, UploadView};

/// Announce an upload.
///
/// Then send the bytes: one archive with `PUT content`, or single files with `PUT files/{name}` and
/// `POST complete`.
#[utoipa::path(
    post, path = "/v1/uploads", tag = "uploads",
    request_body(content = Option<CreateUpload>),
    responses(
        (status = 201, description = "The upload waits for its bytes", body = UploadView,
            headers(("Location" = String, description = "Path of the upload"))),
        (status = 400, description = "The JSON cannot be read", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The announced size is more than the service takes", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is impossible", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create_upload(
    State(app): State<App>,
    request: Option<Json<CreateUpload>>,
) -> ApiResult<(StatusCode, [(HeaderName, String); 1], Body<UploadView>)> {
    let request = request.map(|Json(request)| request).unwrap_or_default();
    let new = check_announcement(&app, request)?;
    let row = db::insert_upload(&app.db, &new).await?;
    let location = format!("/v1/uploads/{}", row.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Body(UploadView::new(row, Vec::new()))))
}

fn check_announcement(app: &App, request: CreateUpload) -> ApiResult<NewUpload> {
    let limit = app.config.limits.upload_bytes;
    if let Some(bytes) = request.bytes.filter(|bytes| *bytes > limit) {
        return Err(Problem::new(Kind::PayloadTooLarge, format!("expected at most {limit} bytes, found {bytes}")));
    }
    if request.bytes == Some(0) {
        return Err(Problem::invalid("/bytes", "expected at least 1, found 0"));
    }
    if let Some(found) = request.filename.as_deref().filter(|name| name.is_empty() || name.len() > 255) {
        return Err(Problem::invalid("/filename", format!("expected 1 to 255 bytes, found {}", found.len())));
    }
    Ok(NewUpload {
        purpose: request.purpose,
        file_name: request.filename,
        declared_bytes: request.bytes.map(u64::cast_signed),
        declared_sha256: request.sha256.map(|sha256| check_sha256("/sha256", &sha256)).transpose()?,
    })
}

/// A SHA-256 in hexadecimal digits of either case, as lower case.
pub(super) fn check_sha256(pointer: &str, found: &str) -> ApiResult<String> {
    if found.len() == 64 && found.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(found.to_ascii_lowercase());
    }
    let detail = format!("expected a SHA-256 as 64 hexadecimal digits, found {} characters", found.chars().count());
    Err(Problem::invalid(pointer, detail))
}

/// Show an upload.
#[utoipa::path(
    get, path = "/v1/uploads/{id}", tag = "uploads",
    params(("id" = UploadId, Path, description = "The upload")),
    responses(
        (status = 200, description = "The upload", body = UploadView),
        (status = 404, description = "There is no such upload", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn show_upload(State(app): State<App>, Path(id): Path<UploadId>) -> ApiResult<Body<UploadView>> {
    let row = find_upload(&app, id).await?;
    let files = staged_files(&app, id).await?;
    Ok(Body(UploadView::new(row, files)))
}

/// Delete an upload and its staged bytes. An artifact that it became stays.
#[utoipa::path(
    delete, path = "/v1/uploads/{id}", tag = "uploads",
    params(("id" = UploadId, Path, description = "The upload")),
    responses(
        (status = 204, description = "The upload is gone"),
        (status = 404, description = "There is no such upload", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "A request is sending its bytes", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn delete_upload(State(app): State<App>, Path(id): Path<UploadId>) -> ApiResult<StatusCode> {
    let row = find_upload(&app, id).await?;
    if row.state == UploadState::Receiving || app.is_receiving(id) {
        return Err(Problem::conflict(format!("upload {id} is receiving its bytes; wait for that request to end")));
    }
    db::delete_upload(&app.db, id).await?;
    app.store.staging().remove(id)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The upload, or 404.
pub(super) async fn find_upload(app: &App, id: UploadId) -> ApiResult<UploadRow> {
    db::find_upload(&app.db, id).await?.ok_or_else(|| Problem::not_found("upload", id))
}
