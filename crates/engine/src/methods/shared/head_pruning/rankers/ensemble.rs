//! (iv) Random masks.
//!
//! The paper's name promises an ensemble that is combined. Ours compares, for every head, how accurate the
//! masks with and without it were, and prunes by the rule; the released code unites all accurate masks and
//! never looks at the union.

use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lab::Lab;
use crate::methods::shared::head_pruning::{Examined, HeadGrid, HeadIdx, HeadRanker, HeadScores, HeadSet, Ranking};

/// The strategy's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnsembleSpec {
    /// Random masks that vote.
    pub masks: usize,
    /// Share of each layer's heads that a voting mask removes, 0..=1.
    pub share: f64,
    /// Masks of the released code.
    pub released_masks: usize,
    /// Share of each layer's heads that one of those removes: two of twelve.
    pub released_share: f64,
}

impl Default for EnsembleSpec {
    fn default() -> Self {
        Self { masks: 24, share: 0.25, released_masks: 5, released_share: 2.0 / 12.0 }
    }
}

pub(in crate::methods::shared::head_pruning) struct EnsembleRanker {
    pub spec: EnsembleSpec,
    pub as_released: bool,
}

impl HeadRanker for EnsembleRanker {
    fn rank(&self, examined: &mut Examined<'_>, lab: &Lab) -> Result<Ranking> {
        let (masks, share) = match self.as_released {
            true => (self.spec.released_masks, self.spec.released_share),
            false => (self.spec.masks, self.spec.share),
        };
        let masks = random_masks(examined.grid(), masks, share, &mut lab.rng("prune_heads/ensemble"));
        let mut tried = Vec::with_capacity(masks.len());
        for mask in masks {
            lab.check_cancel()?;
            let accuracy = examined.accuracy_without(&mask)?;
            tried.push((mask, accuracy));
        }
        Ok(match self.as_released {
            true => Ranking::Outright(union_of_accurate(&tried, examined.floor)),
            false => Ranking::by_rule(score_masks(examined.grid(), &tried)),
        })
    }
}

/// Masks that remove the same number of heads of each layer, at least one.
fn random_masks(grid: HeadGrid, masks: usize, share: f64, rng: &mut ChaCha8Rng) -> Vec<HeadSet> {
    let count = ((grid.heads as f64 * share).round() as usize).clamp(1, grid.heads);
    let mut mask = || -> HeadSet {
        let layers = (0..grid.layers).map(|layer| (layer, sample(rng, grid.heads, count)));
        layers.flat_map(|(layer, heads)| heads.into_iter().map(move |head| HeadIdx { layer, head })).collect()
    };
    (0..masks).map(|_| mask()).collect()
}

/// The worth of each head: mean accuracy of the masks that keep it less that of the masks that remove it. A
/// head that all masks keep, or all remove, is worth 0: nothing is known about it.
pub fn score_masks(grid: HeadGrid, tried: &[(HeadSet, f64)]) -> HeadScores {
    let mean = |head: HeadIdx, removed: bool| {
        let of_kind: Vec<f64> = tried.iter().filter(|(mask, _)| mask.contains(&head) == removed).map(|t| t.1).collect();
        (!of_kind.is_empty()).then(|| of_kind.iter().sum::<f64>() / of_kind.len() as f64)
    };
    let worth = |head| match (mean(head, false), mean(head, true)) {
        (Some(kept), Some(removed)) => kept - removed,
        _ => 0.0,
    };
    HeadScores::new(grid, grid.iter().map(worth).collect())
}

/// As released: everything that any accurate mask removes, and no look at whether the model still works
/// without all of it.
fn union_of_accurate(tried: &[(HeadSet, f64)], floor: f64) -> HeadSet {
    tried.iter().filter(|(_, accuracy)| *accuracy >= floor).flat_map(|(mask, _)| mask.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::rng;

    const GRID: HeadGrid = HeadGrid { layers: 1, heads: 3 };

    fn mask(heads: &[usize]) -> HeadSet {
        heads.iter().map(|&head| HeadIdx { layer: 0, head }).collect()
    }

    #[test]
    fn a_head_is_worth_what_accuracy_its_masks_lose() {
        let tried = [(mask(&[0]), 0.9), (mask(&[1]), 0.5), (mask(&[0, 1]), 0.4)];
        // Head 0: kept 0.5, removed (0.9 + 0.4) / 2. Head 1: kept 0.9, removed 0.45. Head 2 is never removed.
        let found = score_masks(GRID, &tried);
        for (head, expected) in [(0, 0.5 - 0.65), (1, 0.45), (2, 0.0)] {
            assert!((found.get(HeadIdx { layer: 0, head }) - expected).abs() < 1e-12, "head {head}");
        }
    }

    #[test]
    fn the_released_union_takes_every_accurate_mask_whole() {
        let tried = [(mask(&[0]), 0.9), (mask(&[1]), 0.85), (mask(&[2]), 0.8)];
        assert_eq!(union_of_accurate(&tried, 0.85), mask(&[0, 1]));
    }

    #[test]
    fn masks_remove_two_of_twelve_heads_of_each_layer() {
        let grid = HeadGrid { layers: 12, heads: 12 };
        for mask in random_masks(grid, 5, 2.0 / 12.0, &mut rng(1, "masks")) {
            assert!((0..12).all(|layer| mask.iter().filter(|head| head.layer == layer).count() == 2));
        }
    }
}
