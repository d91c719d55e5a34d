//! Every route of the service, in one list. Read this to find the handler of a path.

use axum::{Router, routing::get};
use utoipa::{OpenApi, openapi::OpenApi as Document};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use crate::app::App;
use crate::handlers::{artifacts, catalogue, events, health, jobs, pages, results, upload_content, uploads};
use crate::{middleware, openapi};

/// The service, ready to be served.
pub fn build_router(app: App) -> Router {
    middleware::prometheus();
    let (api, document) = api().split_for_parts();
    let docs = SwaggerUi::new("/docs").url("/openapi.json", document);
    let routes = api.merge(pages()).merge(docs).with_state(app.clone());
    middleware::wrap(routes, &app)
}

/// The description of the API without a running service.
pub fn openapi() -> Document {
    api().into_openapi()
}

fn api() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::About::openapi())
        .routes(routes!(uploads::create_upload))
        .routes(routes!(uploads::show_upload, uploads::delete_upload))
        .routes(routes!(upload_content::put_content))
        .routes(routes!(upload_content::put_file))
        .routes(routes!(upload_content::complete_upload))
        .routes(routes!(artifacts::show_artifact, artifacts::delete_artifact))
        .routes(routes!(artifacts::list_artifact_files))
        .routes(routes!(artifacts::download_file))
        .routes(routes!(artifacts::download_artifact))
        .routes(routes!(jobs::create_job, jobs::list_jobs))
        .routes(routes!(jobs::show_job, jobs::delete_job))
        .routes(routes!(jobs::cancel_job))
        .routes(routes!(events::list_events))
        .routes(routes!(results::show_report))
        .routes(routes!(results::download_rates))
        .routes(routes!(results::download_signature))
        .routes(routes!(results::show_purified))
        .routes(routes!(results::show_report_schema))
        .routes(routes!(catalogue::list_methods))
        .routes(routes!(catalogue::list_attacks))
        .routes(routes!(catalogue::list_bases))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

/// Pages for people; they show what the API says and are no part of its description.
fn pages() -> Router<App> {
    Router::new()
        .route("/", get(pages::jobs_page))
        .route("/jobs/{id}", get(pages::job_page))
        .route("/docs/errors/{code}", get(pages::problem_kind_page))
        .route("/static/{name}", get(pages::static_file))
}
