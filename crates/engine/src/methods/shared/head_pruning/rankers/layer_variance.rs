//! (ii) Layer-wise variance: a fixed share of each layer, larger in later ones. Published and released form
//! are the same.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lab::Lab;
use crate::methods::shared::head_pruning::{Examined, HeadRanker, HeadScores, HeadSet, Ranking};

/// The strategy's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerVarianceSpec {
    /// Share of the first layer's heads, 0..=1.
    pub first_share: f64,
    /// Share of the last layer's heads, 0..=1; in between it rises evenly.
    pub last_share: f64,
}

impl Default for LayerVarianceSpec {
    fn default() -> Self {
        Self { first_share: 0.2, last_share: 0.8 }
    }
}

pub(in crate::methods::shared::head_pruning) struct LayerVarianceRanker {
    pub spec: LayerVarianceSpec,
}

impl HeadRanker for LayerVarianceRanker {
    fn rank(&self, examined: &mut Examined<'_>, _: &Lab) -> Result<Ranking> {
        let scores = examined.attention_variance()?;
        Ok(Ranking::Outright(lowest_of_each_layer(&scores, &self.spec)))
    }
}

/// The lowest heads of each layer, rounded down, at least one head staying.
fn lowest_of_each_layer(scores: &HeadScores, spec: &LayerVarianceSpec) -> HeadSet {
    let grid = scores.grid();
    let lowest = scores.ascending();
    let of_layer = |layer: usize| {
        let depth = layer as f64 / (grid.layers.max(2) - 1) as f64;
        let share = spec.first_share + (spec.last_share - spec.first_share) * depth;
        let count = ((grid.heads as f64 * share) as usize).min(grid.heads - 1);
        lowest.iter().copied().filter(move |head| head.layer == layer).take(count)
    };
    (0..grid.layers).flat_map(of_layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::shared::head_pruning::HeadGrid;

    #[test]
    fn bert_base_loses_two_heads_in_its_first_layer_and_nine_in_its_last() {
        let grid = HeadGrid { layers: 12, heads: 12 };
        let scores = HeadScores::new(grid, (0..144).map(|i| f64::from(144 - i)).collect());
        let pruned = lowest_of_each_layer(&scores, &LayerVarianceSpec::default());
        let counts: Vec<usize> = (0..12).map(|layer| pruned.iter().filter(|h| h.layer == layer).count()).collect();
        // int(12 * (0.2 + 0.6 * layer / 11)): 2.4, 3.05, 3.71, 4.36, 5.02, 5.67, 6.33, 6.98, 7.64, 8.29,
        // 8.95, 9.6.
        assert_eq!(counts, [2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9]);
        assert!(pruned.iter().all(|h| h.head >= 3), "later heads have lower scores here");
    }
}
