//! The variance of each head's attention at one token of each sequence: the score of PURE (Zhao et al.,
//! 2024).

use antigen_models::layers::Pass;
use antigen_models::taps::{Attention, Tap};
use antigen_models::{Model, Packed, Tensor};

use super::{HeadGrid, HeadIdx, HeadScores};
use crate::error::Result;

/// Length to which the published code pads every sentence.
pub const PADDED_TOKENS: usize = 128;

/// Sequences of one pass, and the rows of theirs whose attention is looked at, one each.
pub struct AttentionRows {
    /// The sequences; targets play no part.
    pub packed: Packed,
    /// Rows of the pass.
    pub looking: Vec<u32>,
}

/// Variance score of every head: `variance_of` the attention of the chosen row of each sequence, averaged
/// over the sequences of a batch, then over batches.
///
/// # Errors
/// Those of the device.
///
/// # Cost
/// One forward pass over each batch.
pub fn attention_variance(
    model: &Model,
    batches: impl ExactSizeIterator<Item = AttentionRows>,
    variance_of: impl Fn(&[f32]) -> f64,
) -> Result<HeadScores> {
    let mut scores = HeadScores::zero(HeadGrid::of(model));
    let share_of_batch = 1.0 / batches.len() as f64;
    for batch in batches {
        let share = share_of_batch / batch.looking.len() as f64;
        for (layer, sequences) in shares_of_layers(model, &batch)?.into_iter().enumerate() {
            for heads in sequences {
                for (head, seen) in heads.iter().enumerate() {
                    scores.add(HeadIdx { layer, head }, share * variance_of(seen));
                }
            }
        }
    }
    Ok(scores)
}

/// By block, sequence and head: a share for each token that is seen.
fn shares_of_layers(model: &Model, batch: &AttentionRows) -> Result<Vec<Vec<Vec<Vec<f32>>>>> {
    let pass = Pass { params: model.params(), rows: &batch.packed.rows, adapters: &[], cache: None };
    let mut looks = Looks { rows: &batch.looking, shares: Ok(Vec::new()) };
    model.forward(model.embed(&batch.packed.tokens)?, pass, &mut looks)?;
    looks.shares
}

/// Keeps the attention of the chosen rows in each block.
struct Looks<'a> {
    rows: &'a [u32],
    shares: Result<Vec<Vec<Vec<Vec<f32>>>>>,
}

impl Tap for Looks<'_> {
    fn hidden_state(&mut self, _: usize, _: &Tensor) {}

    fn attention(&mut self, _: usize, attention: &Attention<'_>) {
        let Ok(shares) = &mut self.shares else { return };
        match attention.shares(self.rows) {
            Ok(of_block) => shares.push(of_block),
            Err(error) => self.shares = Err(error.into()),
        }
    }
}

/// Unbiased variance; 0 of a single number.
pub fn variance(row: &[f32]) -> f64 {
    padded_variance(row, row.len() + 1)
}

/// Unbiased variance over the first `padded - 1` entries of a row that goes on with zeros.
///
/// The published code flattens the attention matrix `[128, 128]` and takes its first 127 entries: the row of
/// the first token without its last column.
pub fn padded_variance(row: &[f32], padded: usize) -> f64 {
    let n = (padded - 1) as f64;
    let seen = &row[..row.len().min(padded - 1)];
    let mean = seen.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let squares: f64 = seen.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
    let zeros = n - seen.len() as f64;
    (squares + zeros * mean * mean) / (n - 1.0).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variance_counts_padding_as_attention_of_zero_and_leaves_out_the_last_column() {
        // Padded to 5: the entries are 0.5, 0.25, 0.25, 0; mean 0.25; squares 0.0625 + 0.0625; over 3.
        assert!((padded_variance(&[0.5, 0.25, 0.25], 5) - 0.125 / 3.0).abs() < 1e-12);
        // Of five entries the last is left out: 0.2, 0.2, 0.2, 0.2 do not vary.
        assert!(padded_variance(&[0.2, 0.2, 0.2, 0.2, 0.2], 5).abs() < 1e-12);
    }

    #[test]
    fn without_padding_every_entry_counts() {
        // Mean 0.5, squares 0.0625 twice, over 1.
        assert!((variance(&[0.25, 0.75]) - 0.125).abs() < 1e-12);
        assert_eq!(variance(&[1.0]), 0.0);
    }
}
