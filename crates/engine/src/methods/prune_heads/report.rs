//! Pruned heads as the report shows them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::methods::shared::head_pruning::{HeadIdx, HeadSet};

/// Attention heads that were taken out of a whole model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PrunedHeads {
    /// The heads, block by block.
    #[schema(value_type = Vec<HeadIdx>)]
    pub heads: HeadSet,
    /// Number of heads before.
    pub of: usize,
    /// Share of the validation rows' response tokens that were the likeliest before, 0..=1.
    pub accuracy_before: f64,
    /// The same without them, before healing.
    pub accuracy_without: f64,
}
