//! Memory of a training pass: its estimate, and smaller passes where there is less.
//!
//! `estimate = trained + rows * 4 * (L * d + 3 * B + 2 * d) + logits` bytes, with `L` blocks, `d` the
//! residual width, and `B` the numbers that one block keeps for one row ([`Model::activation_bytes`]).
//! `trained` counts optimiser states and gradients, `L * d` the input of each block, which is always kept,
//! `3 * B` the block at work, forward and backward. The rest of the budget keeps whole blocks, `rows * 4 * B`
//! each; the others are computed a second time in backward, to the same bytes.

use antigen_models::Model;

use crate::error::{EngineError, Result};

/// Tokens of one pass. Two and a half thousand keep the matrix products of a small base busy; more only cost
/// memory.
const TOKENS_PER_PASS: usize = 2560;
/// Three chunks of logits: themselves, their gradient, and room for one in flight.
const LOGITS: u64 = 48 << 20;

/// Runs the training with passes of the usual size and, where the memory budget does not allow them, once
/// more with half of it.
pub(super) fn with_smaller_passes<T>(mut run: impl FnMut(usize) -> Result<T>) -> Result<T> {
    match run(TOKENS_PER_PASS) {
        Err(EngineError::OutOfMemory { estimate, budget }) => {
            tracing::warn!(estimate, budget, "out of memory: trying passes of half the size");
            run(TOKENS_PER_PASS / 2)
        }
        result => result,
    }
}

/// Bytes of activations that a pass over `rows` rows may keep beside those that it cannot do without; `None`
/// is no limit.
///
/// # Errors
/// [`EngineError::OutOfMemory`] when not even a pass that keeps no block fits the budget.
pub(super) fn activation_budget(model: &Model, rows: usize, trained: u64, budget: Option<u64>) -> Result<Option<u64>> {
    let Some(budget) = budget else { return Ok(None) };
    let inputs = (rows * 4 * (model.config().layers() + 2) * model.config().hidden_size()) as u64;
    let estimate = trained + inputs + 3 * model.activation_bytes(rows) + LOGITS;
    if estimate > budget {
        return Err(EngineError::OutOfMemory { estimate, budget });
    }
    Ok(Some(budget - estimate))
}

/// Splits rows of these many tokens, in order, into runs of at most `limit` tokens, at least one row each.
pub(super) fn runs_within(tokens: impl IntoIterator<Item = usize>, limit: usize) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    let mut sum = 0;
    for (i, tokens) in tokens.into_iter().enumerate() {
        sum += tokens;
        match runs.last_mut() {
            Some(run) if sum <= limit => run.end = i + 1,
            _ => {
                runs.push(i..i + 1);
                sum = tokens;
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_fill_the_limit_and_a_longer_row_has_one_of_its_own() {
        assert_eq!(runs_within([3, 3, 3, 9, 1, 1], 6), [0..2, 2..3, 3..4, 4..6]);
        assert!(runs_within([], 6).is_empty());
    }

    #[test]
    fn a_training_out_of_memory_is_tried_once_more_at_half_the_size() {
        let mut tried = Vec::new();
        let result: Result<()> = with_smaller_passes(|tokens| {
            tried.push(tokens);
            Err(EngineError::OutOfMemory { estimate: 2, budget: 1 })
        });
        assert!(matches!(result, Err(EngineError::OutOfMemory { estimate: 2, budget: 1 })));
        assert_eq!(tried, [TOKENS_PER_PASS, TOKENS_PER_PASS / 2]);
    }
}
