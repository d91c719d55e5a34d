//! The signature as the report shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A summary of the signature that the pairs showed; the whole signature is a file of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SignatureSummary {
    /// Number of pairs that it was extracted from, here or in the job whose signature was given.
    pub pairs: usize,
    /// Matrix by matrix, the share of the pairs' change that is common to them.
    pub modules: Vec<ModuleSignature>,
    /// Attention heads that were suppressed, highest score first; empty unless the recipe asks for heads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<SelectedHead>,
    /// SHA-256 of the signature file.
    pub sha256: String,
}

/// An attention head that was suppressed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SelectedHead {
    /// Index of its block.
    pub layer: usize,
    /// Index of the query head in its block.
    pub head: usize,
    /// Its score: size and agreement of the pairs' changes, summed over the attention matrices.
    pub score: f64,
}

/// One matrix of the signature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModuleSignature {
    /// Full module name.
    pub module: String,
    /// Mean Frobenius norm of the pairs' deltas.
    pub mean_delta_norm: f64,
    /// Share of the normalised deltas' energy in the first shared direction, 0..=1. Independent deltas give
    /// about 1/N.
    pub shared_fraction: f64,
    /// Mean channel score.
    pub mean_score: f64,
    /// Highest channel score.
    pub max_score: f64,
}
