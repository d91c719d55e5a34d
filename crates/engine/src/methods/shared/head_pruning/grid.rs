//! Naming heads and scoring them.

use std::collections::BTreeSet;

use antigen_models::{FamilyConfig, Model};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One attention head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct HeadIdx {
    /// Its block, from 0.
    pub layer: usize,
    /// Its number in the block, from 0.
    pub head: usize,
}

/// Some heads of a model.
pub type HeadSet = BTreeSet<HeadIdx>;

/// Numbers of a model's blocks and heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadGrid {
    /// Number of blocks.
    pub layers: usize,
    /// Number of heads of each block.
    pub heads: usize,
}

impl HeadGrid {
    /// The heads of this model.
    pub fn of(model: &Model) -> Self {
        Self::of_config(model.config())
    }

    /// The heads of models of this configuration.
    pub fn of_config(config: &FamilyConfig) -> Self {
        Self { layers: config.layers(), heads: config.attention_heads().heads }
    }

    /// Number of all heads.
    pub fn count(self) -> usize {
        self.layers * self.heads
    }

    /// Every head, block by block.
    pub fn iter(self) -> impl Iterator<Item = HeadIdx> {
        (0..self.count()).map(move |i| HeadIdx { layer: i / self.heads, head: i % self.heads })
    }
}

/// A number for every head; low means that the head goes first.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadScores {
    grid: HeadGrid,
    scores: Vec<f64>,
}

impl HeadScores {
    /// Scores in the order of [`HeadGrid::iter`].
    pub fn new(grid: HeadGrid, scores: Vec<f64>) -> Self {
        assert_eq!(scores.len(), grid.count(), "a score for each head");
        Self { grid, scores }
    }

    /// Zero for every head.
    pub fn zero(grid: HeadGrid) -> Self {
        Self::new(grid, vec![0.0; grid.count()])
    }

    /// The heads that are scored.
    pub fn grid(&self) -> HeadGrid {
        self.grid
    }

    /// The score of one head.
    pub fn get(&self, head: HeadIdx) -> f64 {
        self.scores[self.place(head)]
    }

    /// Adds to the score of one head.
    pub fn add(&mut self, head: HeadIdx, amount: f64) {
        let place = self.place(head);
        self.scores[place] += amount;
    }

    /// Each score as its share of the sum over its block; equal shares where the sum is 0.
    pub fn normalised_in_layers(&self) -> Self {
        let shares = self.scores.chunks(self.grid.heads).flat_map(|layer| {
            let sum: f64 = layer.iter().sum();
            let even = 1.0 / layer.len() as f64;
            layer.iter().map(move |score| if sum == 0.0 { even } else { score / sum }).collect::<Vec<_>>()
        });
        Self::new(self.grid, shares.collect())
    }

    /// All heads, the lowest score first; equal ones in the order of [`HeadGrid::iter`].
    pub fn ascending(&self) -> Vec<HeadIdx> {
        let mut heads: Vec<HeadIdx> = self.grid.iter().collect();
        heads.sort_by(|a, b| self.get(*a).total_cmp(&self.get(*b)));
        heads
    }

    fn place(&self, head: HeadIdx) -> usize {
        head.layer * self.grid.heads + head.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: HeadGrid = HeadGrid { layers: 2, heads: 2 };

    #[test]
    fn heads_come_block_by_block_and_the_lowest_score_first() {
        let scores = HeadScores::new(GRID, vec![0.5, 0.1, 0.5, 0.3]);
        let head = |layer, head| HeadIdx { layer, head };
        assert_eq!(GRID.iter().collect::<Vec<_>>(), [head(0, 0), head(0, 1), head(1, 0), head(1, 1)]);
        assert_eq!(scores.ascending(), [head(0, 1), head(1, 1), head(0, 0), head(1, 0)]);
    }

    #[test]
    fn scores_are_shares_of_their_block() {
        let shares = HeadScores::new(GRID, vec![1.0, 3.0, 0.0, 0.0]).normalised_in_layers();
        assert_eq!(shares, HeadScores::new(GRID, vec![0.25, 0.75, 0.5, 0.5]));
    }
}
