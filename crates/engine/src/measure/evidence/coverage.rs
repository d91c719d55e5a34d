//! Coverage: the questions that were asked about a suspect, and the answer to each.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer to one question of a report's coverage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CoverageStatus {
    /// Looked for and not seen. Not the same as clean.
    NoFinding,
    /// Seen.
    Finding,
    /// Not looked for, or with too few probes to say.
    NotCovered,
}

/// One question and the answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Coverage {
    /// The question.
    pub item: String,
    /// The answer.
    pub status: CoverageStatus,
    /// The evidence in words.
    pub note: String,
}
