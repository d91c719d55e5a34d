//! Training rows that the model had no room for.

use antigen_models::Example;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Rows of one purpose that the model had no room for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LongRows {
    /// `pairs`, `healing`, `relearning`, the name of a utility group, or `asr` with the number of the
    /// backdoor.
    pub purpose: String,
    /// Longest sequence, in tokens: the model's positions, or the recipe's `max_tokens` in training.
    pub limit: usize,
    /// Rows of this purpose; rows that two pairs share count twice.
    pub rows: usize,
    /// Rows whose prompt was kept and whose answer was cut.
    pub truncated: usize,
    /// Rows that were left out because their prompt alone is too long.
    pub skipped: usize,
}

impl LongRows {
    /// Nothing counted yet.
    pub fn new(purpose: impl Into<String>, limit: usize) -> Self {
        Self { purpose: purpose.into(), limit, rows: 0, truncated: 0, skipped: 0 }
    }

    /// The example with its answer cut to the limit, or nothing when the prompt alone reaches it; counts
    /// either.
    pub fn fit(&mut self, mut example: Example) -> Option<Example> {
        self.rows += 1;
        if example.response_start >= self.limit {
            self.skipped += 1;
            return None;
        }
        self.truncated += usize::from(example.tokens.len() > self.limit);
        example.tokens.truncate(self.limit);
        Some(example)
    }

    /// True when some row did not fit.
    pub fn any(&self) -> bool {
        self.truncated + self.skipped > 0
    }
}
