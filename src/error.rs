//! Refusals as a caller sees them: `application/problem+json` (RFC 9457).
//!
//! The errors and their places:
//! - intake says [`Rejection`](crate::intake::Rejection): the submitted bytes are not acceptable, with a
//!   stable code;
//! - the engine says `EngineError`: it ends in the job row, never in an HTTP status;
//! - handlers say [`Problem`]: a public half (kind, code, detail, fields) and a private half (the cause),
//!   which only the log sees.
//!
//! A handler returns a [`Problem`]; `middleware/problems.rs` writes the body, because only there the
//! request's path and id are known. One table (`error/kind.rs`) maps every problem to its status.

mod kind;

use std::{borrow::Cow, fmt, io, sync::Arc};

use axum::{
    http::{HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use kind::Kind;

use crate::artifacts::StoreError;
use crate::db::DbError;

/// The result of a handler.
pub type ApiResult<T> = Result<T, Problem>;

/// One wrong place in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the request body, or the name of a header or query parameter.
    #[schema(example = "/spec/method/pairs")]
    pub pointer: String,
    /// The expectation and the finding.
    #[schema(example = "expected a number from 1 to 64, found 0")]
    pub detail: String,
}

/// A refusal on its way to the caller. `Display` is the private view, with the cause.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Decides status, title and documentation page.
    pub kind: Kind,
    /// Stable machine-readable code; the kind's own unless a narrower one exists (`intake.pickle`).
    pub code: Cow<'static, str>,
    /// The sentence about this case, for the caller.
    pub detail: String,
    /// Wrong places, when they are known.
    pub errors: Vec<FieldError>,
    /// Headers that belong to the refusal (`Allow`, `Content-Range`, `Retry-After`).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// For the log only.
    cause: Option<Arc<anyhow::Error>>,
}

impl Problem {
    /// A problem of a kind, with the sentence for this case.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Problem {
            kind,
            code: Cow::Borrowed(kind.code()),
            detail: detail.into(),
            errors: Vec::new(),
            headers: Vec::new(),
            cause: None,
        }
    }

    /// `what` (an artifact, a job) does not exist under this identifier.
    pub fn not_found(what: &str, id: impl fmt::Display) -> Self {
        Self::new(Kind::NotFound, format!("there is no {what} {id}"))
    }

    /// The resource's state forbids the request.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, detail)
    }

    /// A single wrong place in the request body.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let field = FieldError { pointer: pointer.into(), detail: detail.into() };
        let at = if field.pointer.is_empty() { "the body" } else { &field.pointer };
        let mut problem = Self::new(Kind::InvalidRequest, format!("{at}: {}", field.detail));
        problem.errors.push(field);
        problem
    }

    /// A header or query parameter that cannot be read.
    pub fn malformed(name: &str, detail: impl fmt::Display) -> Self {
        let mut problem = Self::new(Kind::MalformedRequest, format!("{name}: {detail}"));
        problem.errors.push(FieldError { pointer: name.to_owned(), detail: detail.to_string() });
        problem
    }

    /// Our fault. The caller learns the request id, the log learns the cause.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        let mut problem = Self::new(Kind::Internal, "the cause is in the log of the service under this request id");
        problem.cause = Some(Arc::new(cause.into()));
        problem
    }

    /// The disk or a quota is exhausted.
    pub fn store_full(cause: impl Into<anyhow::Error>) -> Self {
        let mut problem = Self::new(Kind::StoreFull, "there is no room for this on the disk of the service");
        problem.cause = Some(Arc::new(cause.into()));
        problem
    }

    /// The same problem with a narrower stable code.
    pub fn with_code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = code.into();
        self
    }

    /// The same problem with one more response header.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The cause, which only the log may know.
    pub fn cause(&self) -> Option<&anyhow::Error> {
        self.cause.as_deref()
    }

    /// The JSON body for one request.
    pub fn body(&self, instance: &str, request_id: &str) -> ProblemBody {
        ProblemBody {
            type_uri: format!("/docs/errors/{}", self.kind.code()),
            title: self.kind.title().to_owned(),
            status: self.kind.status().as_u16(),
            detail: self.detail.clone(),
            instance: instance.to_owned(),
            code: self.code.to_string(),
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code, self.kind.status().as_u16(), self.detail)?;
        match &self.cause {
            Some(cause) => write!(f, "; cause: {cause:#}"),
            None => Ok(()),
        }
    }
}

/// So that streams and `anyhow` can carry it.
impl std::error::Error for Problem {}

/// The body of every refusal (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProblemBody {
    /// Page of this service that explains the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "/docs/errors/invalid_request")]
    pub type_uri: String,
    /// One line for people, the same for every problem of this type.
    #[schema(example = "The request is understood but not possible")]
    pub title: String,
    /// The HTTP status again.
    #[schema(example = 422)]
    pub status: u16,
    /// The sentence about this case.
    #[schema(example = "/spec/method/pairs: expected a number from 1 to 64, found 0")]
    pub detail: String,
    /// Path of the request.
    #[schema(example = "/v1/jobs")]
    pub instance: String,
    /// Stable code for programs; never changes for the same cause.
    #[schema(example = "invalid_request")]
    pub code: String,
    /// Identifier of the request, also in the `X-Request-Id` header and in the log.
    pub request_id: String,
    /// Wrong places of the request, when they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl IntoResponse for Problem {
    /// Status and headers only; the outermost layer adds the body, because it knows the path and the request
    /// id.
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        for (name, value) in &self.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        // SQLITE_FULL. The code is the only thing by which the driver tells it apart.
        let full =
            matches!(&error, DbError::Database(sqlx::Error::Database(cause)) if cause.code().as_deref() == Some("13"));
        if full { Self::store_full(error) } else { Self::internal(error) }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if is_disk_full(&error) { Self::store_full(error) } else { Self::internal(error) }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        if is_disk_full(&error) { Self::store_full(error) } else { Self::internal(error) }
    }
}

/// True when the disk, a quota or a limit on file sizes is at the bottom of an error.
fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            // An io::Error made from another error is asked for that one, not for its source.
            if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
                return true;
            }
            if error.get_ref().is_some_and(|inner| is_disk_full(inner)) {
                return true;
            }
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_for_the_log_and_never_in_the_body() {
        let problem = Problem::internal(anyhow::anyhow!("password of the database"));
        assert!(problem.to_string().contains("password"));
        let body = serde_json::to_string(&problem.body("/v1/jobs", "r1")).unwrap();
        assert!(!body.contains("password"), "{body}");
    }

    #[test]
    fn a_full_disk_is_recognised_below_other_errors() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Problem::from(full()).kind, Kind::StoreFull);
        assert_eq!(Problem::from(io::Error::other(full())).kind, Kind::StoreFull);
        let store = object_store::Error::Generic { store: "local", source: Box::new(full()) };
        assert_eq!(Problem::from(StoreError::Store(store)).kind, Kind::StoreFull);
        assert_eq!(Problem::from(io::Error::other("else")).kind, Kind::Internal);
    }

    #[test]
    fn an_invalid_field_is_named_by_its_pointer() {
        let body = Problem::invalid("/spec/seed", "expected a number, found true").body("/v1/jobs", "r1");
        assert_eq!(body.errors[0].pointer, "/spec/seed");
        assert_eq!((body.status, body.code.as_str()), (422, "invalid_request"));
    }
}
