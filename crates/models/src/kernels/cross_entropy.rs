//! Softmax cross-entropy over rows of logits, with its gradient in the same pass.

use candle_core::Tensor;
use rayon::prelude::*;

use super::math::{exp, maximum, sum, vectorised};
use super::{CpuSlice, cuda, output, unwritten};
use crate::error::Result;

/// The result of [`cross_entropy`].
#[derive(Debug)]
pub struct CrossEntropy {
    /// `-ln p(target)` of every row, in nats, unweighted.
    pub losses: Vec<f32>,
    /// Gradient of `sum(weight * loss)` with respect to the logits, when asked for.
    pub gradient: Option<Tensor>,
}

/// Loss of each row against its target token; the gradient is `weight * (softmax - one_hot)`.
///
/// # Shapes
/// `logits` `[m, v]`; `targets` and `weights` `[m]`.
pub fn cross_entropy(logits: &Tensor, targets: &[u32], weights: Option<&[f32]>) -> Result<CrossEntropy> {
    if cuda::serves(logits) {
        return cuda::cross_entropy(logits, targets, weights);
    }
    let (m, v) = logits.dims2()?;
    let logits = CpuSlice::of(logits)?;
    let mut losses = vec![0f32; m];
    let rows = || logits.par_chunks(v).zip(targets.par_iter());
    let Some(weights) = weights else {
        losses.par_iter_mut().zip(rows()).for_each(|(loss, (row, &target))| {
            *loss = vectorised!(log_sum_exp(row)) - row[target as usize];
        });
        return Ok(CrossEntropy { losses, gradient: None });
    };
    let mut gradient = unwritten(m * v);
    gradient.par_chunks_mut(v).zip(losses.par_iter_mut()).zip(rows().zip(weights.par_iter())).for_each(
        |((gradient, loss), ((row, &target), &weight))| {
            vectorised!({
                let normaliser = log_sum_exp(row);
                *loss = normaliser - row[target as usize];
                for (g, &z) in gradient.iter_mut().zip(row) {
                    *g = exp(z - normaliser) * weight;
                }
                gradient[target as usize] -= weight;
            })
        },
    );
    Ok(CrossEntropy { losses, gradient: Some(output(gradient, (m, v))?) })
}

#[inline(always)]
fn log_sum_exp(row: &[f32]) -> f32 {
    let maximum = maximum(row);
    maximum + sum(row, |z| exp(z - maximum)).ln()
}
