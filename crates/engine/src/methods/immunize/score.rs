//! Channel scores (Eq. 2): how strongly the pairs change a channel, and how much they agree about it.
//!
//! `s_j = mean_i |delta_ij| + lambda * 2 / (N (N - 1)) * sum_{i<l} max(0, cos(delta_ij, delta_lj))`, for each matrix on its own.
//! Source: arXiv 2603.13461; exact from the factors, in float64, because the norm of a difference cancels.

use candle_core::Tensor;

use super::deltas::Delta;
use crate::error::Result;
use crate::spec::ScoreSpec;

/// Keeps the cosine of a channel that did not change at 0.
const EPSILON: f64 = 1e-8;

/// The scores of one matrix: one number a channel.
///
/// # Cost
/// O(N^2 r^2 (channels + d)) for N pairs.
///
/// # Errors
/// Those of the device.
pub fn score_channels(deltas: &[Delta], spec: &ScoreSpec) -> Result<Vec<f64>> {
    let n = deltas.len();
    let norms = deltas.iter().map(|delta| Ok(channel_products(delta, delta)?.into_iter().map(root).collect()));
    let norms = norms.collect::<Result<Vec<Vec<f64>>>>()?;
    let channels = norms.first().map_or(0, Vec::len);
    let mut scores: Vec<f64> =
        (0..channels).map(|j| norms.iter().map(|norm| norm[j]).sum::<f64>() / n as f64).collect();
    if n < 2 {
        return Ok(scores);
    }
    let weight = spec.consistency_weight * 2.0 / (n * (n - 1)) as f64;
    for i in 0..n {
        for l in i + 1..n {
            let products = channel_products(&deltas[i], &deltas[l])?;
            for (j, (score, product)) in scores.iter_mut().zip(products).enumerate() {
                let cosine = product / (norms[i][j].max(EPSILON) * norms[l][j].max(EPSILON));
                *score += weight * cosine.max(0.0);
            }
        }
    }
    Ok(scores)
}

/// Inner product of the two deltas, channel by channel: row j of `C_i (D_i D_l^T)` times row j of `C_l`.
fn channel_products(one: &Delta, other: &Delta) -> Result<Vec<f64>> {
    let gram = one.residual.matmul(&other.residual.t()?)?;
    let products: Tensor = (one.channel.matmul(&gram)? * &other.channel)?;
    Ok(products.sum(1)?.to_vec1()?)
}

// Rounding may push the square of a channel that did not change below zero.
fn root(square: f64) -> f64 {
    square.max(0.0).sqrt()
}

/// The highest-scoring channels of a matrix: `max(1, floor(n * ratio))` of them, as released; ties go to the lower index.
pub fn select_channels(scores: &[f32], ratio: f64) -> Vec<usize> {
    let count = ((scores.len() as f64 * ratio) as usize).clamp(1, scores.len());
    let mut order: Vec<_> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    // Rank one factors that multiply out to the given rows.
    fn delta(rows: &[[f64; 2]]) -> Delta {
        let channel = Tensor::from_vec(rows.concat(), (rows.len(), 2), &Device::Cpu).unwrap();
        let residual = Tensor::eye(2, candle_core::DType::F64, &Device::Cpu).unwrap();
        Delta { channel, residual }
    }

    #[test]
    fn scores_agree_with_a_calculation_by_hand() {
        // Channel 0: norms 5 and 10, same direction. Channel 1: norms 1 and 1, opposite. Channel 2: unchanged in the second pair.
        let first = delta(&[[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]);
        let second = delta(&[[6.0, 8.0], [-1.0, 0.0], [0.0, 0.0]]);
        let scores = score_channels(&[first, second], &ScoreSpec { consistency_weight: 0.01 }).unwrap();
        for (found, expected) in scores.iter().zip([7.51, 1.0, 1.0]) {
            assert!((found - expected).abs() < 1e-9, "{scores:?}");
        }
    }

    #[test]
    fn a_single_pair_is_scored_by_its_norm() {
        assert_eq!(score_channels(&[delta(&[[3.0, 4.0]])], &ScoreSpec::default()).unwrap(), [5.0]);
    }

    #[test]
    fn selection_takes_at_least_one_channel_and_breaks_ties_by_index() {
        assert_eq!(select_channels(&[1.0, 3.0, 3.0, 2.0], 0.5), [1, 2]);
        assert_eq!(select_channels(&[1.0, 3.0, 3.0, 2.0], 0.01), [1]);
        assert_eq!(select_channels(&[1.0, 2.0], 1.0), [0, 1]);
    }
}
