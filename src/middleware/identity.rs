//! Every request has an identifier: the caller's own, if it is a sane one, or a new one. It is in the log
//! span, in every problem body and in the `X-Request-Id` header of the answer.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, Request},
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Identifier of one request.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

impl RequestId {
    /// A caller's identifier goes into logs and pages: only short plain ones are taken over.
    fn of(headers: &HeaderMap) -> Self {
        let plain = |text: &&str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let own = headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(plain);
        RequestId(own.map_or_else(|| uuid::Uuid::now_v7().simple().to_string(), str::to_owned))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_else(|| RequestId::of(&parts.headers)))
    }
}

/// Names the request, runs it inside a span of that name, and tells the name to the caller.
pub(super) async fn name_requests(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let span = tracing::info_span!("request", id = %id.0, method = %request.method(), path = %request.uri().path());
    let value = HeaderValue::from_str(&id.0).expect("an identifier is made of letters, digits and -_.");
    request.extensions_mut().insert(id);
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(HEADER, value);
    response
}
