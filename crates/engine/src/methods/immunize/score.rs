//! Channel scores (Eq. 2): the size of the pairs' change of a channel, and their agreement about it.
//!
//! `s_j = mean_i |delta_ij| + lambda * 2 / (N (N - 1)) * sum_{i<l} max(0, cos(delta_ij, delta_lj))`, for each
//! matrix on its own. [`ScoreParts`] leaves one of the two parts out, [`ScoreGrouping::Layer`] scores the
//! channels of a neuron's three matrices as one long one. Source: arXiv 2603.13461; from inner products in
//! float64, because the norm of a difference cancels. Heads are scored by the same formula over sums of their
//! channels' products, which are the inner products of the heads' blocks.

use std::ops::Range;

use super::spec::{ScoreGrouping, ScoreParts, ScoreSpec};
use crate::error::Result;
use crate::methods::shared::edit::channel_count;

/// Keeps the cosine of a channel that did not change at 0.
const EPSILON: f64 = 1e-8;

/// Inner products of the pairs' deltas of one matrix, channel by channel.
#[derive(Debug, Clone, PartialEq)]
pub struct PairProducts {
    pairs: usize,
    /// `<delta_ij, delta_lj>` for every j; of (i, l) with i <= l, row by row.
    products: Vec<Vec<f64>>,
}

impl PairProducts {
    /// Products of `pairs` deltas; `product(i, l)` gives those of two of them, i <= l.
    ///
    /// # Errors
    /// Those of `product`.
    pub fn build(pairs: usize, mut product: impl FnMut(usize, usize) -> Result<Vec<f64>>) -> Result<Self> {
        let mut products = Vec::with_capacity(pairs * (pairs + 1) / 2);
        for i in 0..pairs {
            for l in i..pairs {
                products.push(product(i, l)?);
            }
        }
        Ok(Self { pairs, products })
    }

    /// Number of pairs.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// The products of two deltas, i <= l.
    pub fn of(&self, i: usize, l: usize) -> &[f64] {
        &self.products[i * self.pairs - i * i.saturating_sub(1) / 2 + l - i]
    }

    /// The products of `channels` longer channels that these are parts of: those at a distance of `channels`
    /// belong together. A matrix that holds gate and up one below the other has two parts of each neuron.
    pub fn folded(&self, channels: usize) -> Self {
        let fold = |product: &Vec<f64>| (0..channels).map(|j| product.iter().skip(j).step_by(channels).sum()).collect();
        Self { pairs: self.pairs, products: self.products.iter().map(fold).collect() }
    }

    /// Makes each channel longer by that of another matrix with as many of them.
    pub fn extend(&mut self, other: &Self) {
        for (own, other) in self.products.iter_mut().zip(&other.products) {
            own.iter_mut().zip(other).for_each(|(own, other)| *own += other);
        }
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.products.first().map_or(0, Vec::len)
    }

    /// The products of runs of channels instead of single ones.
    pub fn of_blocks(&self, blocks: &[Range<usize>]) -> Self {
        let sums = |product: &Vec<f64>| blocks.iter().map(|block| product[block.clone()].iter().sum()).collect();
        Self { pairs: self.pairs, products: self.products.iter().map(sums).collect() }
    }
}

/// The scores of one matrix: one number a channel.
pub fn score_channels(products: &PairProducts, spec: &ScoreSpec) -> Vec<f64> {
    let n = products.pairs();
    let norms: Vec<Vec<f64>> = (0..n).map(|i| products.of(i, i).iter().copied().map(root).collect()).collect();
    let channels = norms.first().map_or(0, Vec::len);
    let mean_norm = |j| norms.iter().map(|norm| norm[j]).sum::<f64>() / n as f64;
    let mut scores: Vec<f64> = match spec.parts {
        ScoreParts::Both | ScoreParts::Norm => (0..channels).map(mean_norm).collect(),
        ScoreParts::Alignment => vec![0.0; channels],
    };
    if n < 2 || spec.parts == ScoreParts::Norm {
        return scores;
    }
    let weight = spec.consistency_weight * 2.0 / (n * (n - 1)) as f64;
    for i in 0..n {
        for l in i + 1..n {
            for (j, (score, product)) in scores.iter_mut().zip(products.of(i, l)).enumerate() {
                let cosine = product / (norms[i][j].max(EPSILON) * norms[l][j].max(EPSILON));
                *score += weight * cosine.max(0.0);
            }
        }
    }
    scores
}

// Rounding may push the square of a channel that did not change below zero.
fn root(square: f64) -> f64 {
    square.max(0.0).sqrt()
}

/// The highest-scoring channels of a matrix: `max(1, floor(n * ratio))` of them, as released; ties go to the
/// lower index.
pub fn select_channels(scores: &[f32], ratio: f64) -> Vec<usize> {
    let count = channel_count(scores.len(), ratio);
    let mut order: Vec<_> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// The scores of the matrices of one layer: each on its own, or the neurons that they share.
pub fn score_layer(matrices: &[PairProducts], spec: &ScoreSpec) -> Vec<Vec<f64>> {
    let neurons = matrices.iter().map(PairProducts::channels).min().unwrap_or(0);
    if spec.grouping == ScoreGrouping::Matrix || neurons == 0 {
        return matrices.iter().map(|products| score_channels(products, spec)).collect();
    }
    let mut joint = matrices[0].folded(neurons);
    matrices[1..].iter().for_each(|products| joint.extend(&products.folded(neurons)));
    let scores = score_channels(&joint, spec);
    matrices.iter().map(|products| scores.iter().copied().cycle().take(products.channels()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighted(consistency_weight: f64) -> ScoreSpec {
        ScoreSpec { consistency_weight, ..ScoreSpec::default() }
    }

    // The products of deltas given channel by channel.
    fn products(deltas: &[&[[f64; 2]]]) -> PairProducts {
        let product =
            |i: usize, l: usize| Ok(deltas[i].iter().zip(deltas[l]).map(|(a, b)| a[0] * b[0] + a[1] * b[1]).collect());
        PairProducts::build(deltas.len(), product).unwrap()
    }

    #[test]
    fn scores_agree_with_a_calculation_by_hand() {
        // Channel 0: norms 5 and 10, same direction. Channel 1: norms 1 and 1, opposite. Channel 2: unchanged
        // in the second pair.
        let first = [[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]];
        let second = [[6.0, 8.0], [-1.0, 0.0], [0.0, 0.0]];
        let scores = score_channels(&products(&[&first, &second]), &weighted(0.01));
        for (found, expected) in scores.iter().zip([7.51, 1.0, 1.0]) {
            assert!((found - expected).abs() < 1e-9, "{scores:?}");
        }
    }

    #[test]
    fn either_part_of_the_score_may_count_alone() {
        let deltas = products(&[&[[3.0, 4.0], [1.0, 0.0]], &[[6.0, 8.0], [0.0, 1.0]]]);
        let with = |parts| score_channels(&deltas, &ScoreSpec { parts, ..weighted(0.5) });
        assert_eq!(with(ScoreParts::Norm), [7.5, 1.0]);
        assert_eq!(with(ScoreParts::Alignment), [0.5, 0.0]);
        assert_eq!(with(ScoreParts::Both), [8.0, 1.0]);
    }

    #[test]
    fn a_neuron_of_a_layer_is_scored_over_all_its_matrices() {
        // One pair. Gate above up in one matrix: neuron 0 has rows 0 and 2, |(3, 4)| and |(0, 12)|; down adds
        // nothing to it.
        let gate_up = products(&[&[[3.0, 4.0], [1.0, 0.0], [0.0, 12.0], [0.0, 0.0]]]);
        let down = products(&[&[[0.0, 0.0], [0.0, 0.0]]]);
        let spec = ScoreSpec { grouping: ScoreGrouping::Layer, ..ScoreSpec::default() };
        assert_eq!(score_layer(&[gate_up, down], &spec), [vec![13.0, 1.0, 13.0, 1.0], vec![13.0, 1.0]]);
    }

    #[test]
    fn a_single_pair_is_scored_by_its_norm() {
        assert_eq!(score_channels(&products(&[&[[3.0, 4.0]]]), &ScoreSpec::default()), [5.0]);
    }

    #[test]
    fn every_two_of_three_pairs_are_found_where_they_were_put() {
        let products = PairProducts::build(3, |i, l| Ok(vec![(10 * i + l) as f64])).unwrap();
        for i in 0..3 {
            for l in i..3 {
                assert_eq!(products.of(i, l), [(10 * i + l) as f64]);
            }
        }
    }

    #[test]
    fn a_block_of_channels_is_scored_as_one_long_channel() {
        // Rows 0 and 1 together: |(3, 4, 0, 12)| = 13 in both pairs, same direction.
        let delta = [[3.0, 4.0], [0.0, 12.0], [1.0, 1.0]];
        let blocks = products(&[&delta, &delta]).of_blocks(&[0..2, 2..3]);
        let scores = score_channels(&blocks, &weighted(1.0));
        assert!((scores[0] - 14.0).abs() < 1e-9, "{scores:?}");
    }

    #[test]
    fn selection_takes_at_least_one_channel_and_breaks_ties_by_index() {
        assert_eq!(select_channels(&[1.0, 3.0, 3.0, 2.0], 0.5), [1, 2]);
        assert_eq!(select_channels(&[1.0, 3.0, 3.0, 2.0], 0.01), [1]);
        assert_eq!(select_channels(&[1.0, 2.0], 1.0), [0, 1]);
    }
}
