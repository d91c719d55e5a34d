//! Path parameters.

use axum::{RequestPartsExt, extract::FromRequestParts, http::request::Parts};
use serde::de::DeserializeOwned;

use crate::error::{Kind, Problem};

/// Parameters of the matched path. One that cannot be an identifier names nothing, so the answer is 404 and
/// not 400.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send + 'static> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        match parts.extract::<axum::extract::Path<T>>().await {
            Ok(axum::extract::Path(value)) => Ok(Path(value)),
            Err(rejection) => Err(Problem::new(Kind::NotFound, rejection.body_text())),
        }
    }
}
