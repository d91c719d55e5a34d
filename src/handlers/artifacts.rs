//! `/v1/artifacts`: show, list files, download.

use axum::{
    Json as Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::download::Download;
use crate::app::App;
use crate::db;
use crate::db::{ArtifactFile, ArtifactId, ArtifactOrigin, ArtifactRow, Deletion};
use crate::error::{ApiResult, Kind, Problem, ProblemBody};
use crate::extract::{Path, Query};
use crate::views::{ArtifactView, FilesView};

/// The word that opens the quarantine.
const CONSENT: &str = "quarantined";

/// The caller's word that unvetted files are wanted.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Consent {
    /// Must be `quarantined` to fetch files that were uploaded and not made by a job.
    #[param(example = "quarantined")]
    i_understand: Option<String>,
}

/// Show an artifact with its files.
#[utoipa::path(
    get, path = "/v1/artifacts/{id}", tag = "artifacts",
    params(("id" = ArtifactId, Path, description = "The artifact")),
    responses(
        (status = 200, description = "The artifact", body = ArtifactView),
        (status = 404, description = "There is no such artifact", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn show_artifact(State(app): State<App>, Path(id): Path<ArtifactId>) -> ApiResult<Body<ArtifactView>> {
    view_artifact(&app, id).await.map(Body)
}

/// List the files of an artifact.
#[utoipa::path(
    get, path = "/v1/artifacts/{id}/files", tag = "artifacts",
    params(("id" = ArtifactId, Path, description = "The artifact")),
    responses(
        (status = 200, description = "Its files by path, with digests", body = FilesView),
        (status = 404, description = "There is no such artifact", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list_artifact_files(State(app): State<App>, Path(id): Path<ArtifactId>) -> ApiResult<Body<FilesView>> {
    let view = view_artifact(&app, id).await?;
    Ok(Body(FilesView { sha256: view.sha256, data: view.files }))
}

/// Download one file of an artifact.
#[utoipa::path(
    get, path = "/v1/artifacts/{id}/files/{path}", tag = "artifacts",
    params(("id" = ArtifactId, Path, description = "The artifact"),
           ("path" = String, Path, description = "Path of the file", example = "adapter_model.safetensors"), Consent,
           ("Range" = Option<String>, Header, description = "One range of bytes"),
           ("If-Range" = Option<String>, Header, description = "The ETag that the caller has a part of"),
           ("If-None-Match" = Option<String>, Header, description = "The ETag that the caller has")),
    responses(
        (status = 200, description = "The bytes, with ETag and Repr-Digest", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The asked range of the bytes", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 304, description = "The caller has these bytes"),
        (status = 400, description = "A query parameter is unknown", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The artifact is unvetted", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such artifact or file", body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "The file has no such range", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn download_file(
    State(app): State<App>,
    Path((id, path)): Path<(ArtifactId, String)>,
    Query(consent): Query<Consent>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let row = find_artifact(&app, id).await?;
    check_consent(&row, &consent)?;
    let files = db::list_artifact_files(&app.db, id).await?;
    let file = files.into_iter().find(|file| file.path == path);
    let file = file.ok_or_else(|| Problem::not_found("file", format!("{path} in artifact {id}")))?;
    Download::file(file, "application/octet-stream").answer(&app, &headers)
}

/// Download all files of an artifact as a tar.
#[utoipa::path(
    get, path = "/v1/artifacts/{id}/download", tag = "artifacts",
    params(("id" = ArtifactId, Path, description = "The artifact"), Consent,
           ("Range" = Option<String>, Header, description = "One range of bytes: the tar of an artifact never changes"),
           ("If-Range" = Option<String>, Header, description = "The ETag that the caller has a part of"),
           ("If-None-Match" = Option<String>, Header, description = "The ETag that the caller has")),
    responses(
        (status = 200, description = "A tar of the files", content_type = "application/x-tar", body = Vec<u8>),
        (status = 206, description = "The asked range of it", content_type = "application/x-tar", body = Vec<u8>),
        (status = 304, description = "The caller has these bytes"),
        (status = 400, description = "A query parameter is unknown", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The artifact is unvetted", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such artifact", body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "The tar has no such range", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn download_artifact(
    State(app): State<App>,
    Path(id): Path<ArtifactId>,
    Query(consent): Query<Consent>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let row = find_artifact(&app, id).await?;
    check_consent(&row, &consent)?;
    let files = db::list_artifact_files(&app.db, id).await?;
    Download::tar(&id.to_string(), &row.digest, files)?.answer(&app, &headers)
}

/// Delete an artifact that no job uses.
#[utoipa::path(
    delete, path = "/v1/artifacts/{id}", tag = "artifacts",
    params(("id" = ArtifactId, Path, description = "The artifact")),
    responses(
        (status = 204, description = "The artifact is gone"),
        (status = 404, description = "There is no such artifact", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "A job uses it", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn delete_artifact(State(app): State<App>, Path(id): Path<ArtifactId>) -> ApiResult<StatusCode> {
    match db::delete_artifact(&app.db, id).await? {
        Deletion::Deleted => Ok(StatusCode::NO_CONTENT),
        Deletion::NotFound => Err(Problem::not_found("artifact", id)),
        Deletion::InUse => Err(Problem::conflict(format!("a job uses artifact {id}; delete the job first"))),
    }
}

/// The artifact with its files, or 404.
pub(super) async fn view_artifact(app: &App, id: ArtifactId) -> ApiResult<ArtifactView> {
    let row = find_artifact(app, id).await?;
    Ok(ArtifactView::new(row, files_of(app, id).await?))
}

/// The artifact, or 404.
pub(super) async fn find_artifact(app: &App, id: ArtifactId) -> ApiResult<ArtifactRow> {
    db::find_artifact(&app.db, id).await?.ok_or_else(|| Problem::not_found("artifact", id))
}

/// The artifact's files by path.
pub(super) async fn files_of(app: &App, id: ArtifactId) -> ApiResult<Vec<ArtifactFile>> {
    Ok(db::list_artifact_files(&app.db, id).await?)
}

fn check_consent(row: &ArtifactRow, consent: &Consent) -> ApiResult<()> {
    let understood = consent.i_understand.as_deref() == Some(CONSENT);
    if row.origin == ArtifactOrigin::Uploaded && !understood {
        let detail =
            format!("artifact {} was uploaded and is unvetted; add ?i_understand={CONSENT} to fetch it", row.id);
        return Err(Problem::new(Kind::Quarantined, detail));
    }
    Ok(())
}
