//! Bodies of `/livez` and `/readyz`.

use serde::Serialize;
use utoipa::ToSchema;

/// The state of the service.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Health {
    /// `ok`, or the request would have been a problem document.
    #[schema(example = "ok")]
    pub status: String,
    /// Every part that was asked; empty for liveness.
    pub checks: Vec<Check>,
}

/// One part of the service.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Check {
    #[schema(example = "database")]
    pub name: String,
    /// Its answer.
    pub detail: String,
}
