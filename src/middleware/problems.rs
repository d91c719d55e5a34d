//! Writes the body of every refusal, also of those that no handler of ours made (unknown path, wrong method).

use axum::{
    Json,
    extract::Request,
    http::{
        HeaderMap, HeaderValue,
        header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
    },
    middleware::Next,
    response::{Html, IntoResponse, Response},
};

use super::RequestId;
use crate::error::{Kind, Problem};
use crate::extract::{Accept, Wanted};
use crate::pages;

/// Turns every answer with an error status into `application/problem+json`, or into a page for a browser
/// outside `/v1`.
pub(super) async fn write_problem_bodies(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let wanted = Accept::of(request.headers()).choose(&[Wanted::Json, Wanted::Html]);
    let response = next.run(request).await;
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let bare = || Problem::new(Kind::of_status(status), Kind::of_status(status).meaning());
    let problem = response.extensions().get::<Problem>().cloned().unwrap_or_else(bare);
    log(&problem);

    let body = problem.body(&path, &id);
    let as_page = wanted == Some(Wanted::Html) && !path.starts_with("/v1/");
    let mut written = match as_page.then(|| pages::problem_page(&body)) {
        Some(Ok(page)) => Html(page).into_response(),
        _ => Json(body).into_response(),
    };
    if !as_page {
        written.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    }
    keep_headers(response.headers(), written.headers_mut());
    written.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *written.status_mut() = status;
    written
}

/// `Allow`, `Content-Range`, `Retry-After` and the like belong to the refusal; the old body's type and length
/// do not.
fn keep_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if name != CONTENT_TYPE && name != CONTENT_LENGTH {
            to.insert(name.clone(), value.clone());
        }
    }
}

fn log(problem: &Problem) {
    if problem.kind.status().is_server_error() {
        tracing::error!(%problem, "request failed");
    } else {
        tracing::debug!(%problem, "request refused");
    }
}
