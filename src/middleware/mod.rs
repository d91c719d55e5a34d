//! The middleware around every handler, from the outside in: identity and log span (`identity`), metrics
//! (`observe`), problem bodies (`problems`), panics, security headers and origin checks (`guard`), body
//! limit.
//!
//! Nothing here is about one resource. Start with [`wrap`].

mod guard;
mod identity;
mod observe;
mod problems;

use std::any::Any;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::App;
use crate::error::{Kind, Problem};

pub use identity::RequestId;
pub use observe::prometheus;

/// Puts every layer around the routes. The one added last runs first.
pub fn wrap(router: Router, app: &App) -> Router {
    let body_limit = usize::try_from(app.config.limits.body_bytes).unwrap_or(usize::MAX);
    let guarded = router
        .layer(DefaultBodyLimit::max(body_limit))
        .layer(from_fn_with_state(app.clone(), guard::refuse_foreign_requests));
    wrap_any(guarded)
}

/// The layers that need no state.
fn wrap_any(router: Router) -> Router {
    router
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(from_fn(guard::add_security_headers))
        .layer(from_fn(problems::write_problem_bodies))
        .layer(from_fn(observe::count_requests))
        .layer(from_fn(identity::name_requests))
}

/// A bug: the caller learns the request id, the log learns the message.
fn answer_panic(payload: Box<dyn Any + Send>) -> Response {
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    tracing::error!(%message, "a handler panicked");
    Problem::new(Kind::Internal, Kind::Internal.meaning()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request, routing::get};
    use tower::ServiceExt;

    use super::*;
    use crate::error::ProblemBody;

    #[tokio::test]
    async fn a_panic_is_an_answer_without_its_message() {
        async fn boom() {
            panic!("the password is xyzzy")
        }
        let service = wrap_any(Router::new().route("/boom", get(boom)));
        let response = service.oneshot(Request::get("/boom").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 500);
        let bytes = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let body: ProblemBody = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((body.code.as_str(), body.instance.as_str()), ("internal", "/boom"));
        assert!(!String::from_utf8_lossy(&bytes).contains("xyzzy"));
    }
}
