//! Attention heads: naming them, scoring them, and taking them out of a model.

use std::collections::BTreeSet;

use antigen_models::params::ParamId;
use antigen_models::{Model, ModelError, ModuleKind, ModuleShape, Stored, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// One attention head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeadIdx {
    /// Its block, from 0.
    pub layer: usize,
    /// Which head of the block, from 0.
    pub head: usize,
}

/// Some heads of a model.
pub type HeadSet = BTreeSet<HeadIdx>;

/// How many heads a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadGrid {
    /// Blocks.
    pub layers: usize,
    /// Heads of each block.
    pub heads: usize,
}

impl HeadGrid {
    /// The heads of this model.
    pub fn of(model: &Model) -> Self {
        Self { layers: model.config().layers(), heads: model.config().attention_heads().heads }
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

    /// Which heads are scored.
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

/// What [`remove_heads`] replaced.
#[must_use = "the weights as they were"]
pub struct Removed(Vec<(ParamId, Tensor)>);

impl Removed {
    /// Puts the heads back.
    pub fn restore(self, model: &mut Model) {
        for (id, weight) in self.0 {
            model.params_mut().set(id, weight);
        }
    }
}

/// Takes heads out: their rows of the query, key and value matrices, of those biases, and their columns of the output matrix become
/// zero. That is the published removal: a head without values adds nothing, whatever it attends to. Its weights then also have
/// gradients of exactly zero, so that fine-tuning does not bring it back.
///
/// # Errors
/// [`ModelError::Unsupported`] for an attention whose heads share keys, or whose matrices lie otherwise.
pub fn remove_heads(model: &mut Model, heads: &HeadSet) -> Result<Removed> {
    let sizes = model.config().attention_heads();
    let layers: BTreeSet<usize> = heads.iter().map(|head| head.layer).collect();
    let mut removed = Vec::new();
    for layer in layers {
        let mut kept = vec![1f32; sizes.query_width()];
        for head in heads.iter().filter(|head| head.layer == layer) {
            kept[head.head * sizes.head_width..(head.head + 1) * sizes.head_width].fill(0.0);
        }
        let kept = Tensor::new(kept, model.device())?;
        for module in attention_modules(model, layer)? {
            let reads = module.kind != ModuleKind::Output;
            let mask = if reads { kept.unsqueeze(1)? } else { kept.unsqueeze(0)? };
            removed.push(multiply(model, &format!("{}.weight", module.name), &mask)?);
            if reads {
                removed.push(multiply(model, &format!("{}.bias", module.name), &kept)?);
            }
        }
    }
    Ok(Removed(removed.into_iter().flatten().collect()))
}

/// Replaces a weight by its product with `mask`; returns what it was, or nothing where there is no such weight.
pub(super) fn multiply(model: &mut Model, name: &str, mask: &Tensor) -> Result<Option<(ParamId, Tensor)>> {
    let Some(id) = model.params().find(name) else { return Ok(None) };
    let old = model.params().get(id).clone();
    let new = old.broadcast_mul(mask)?.contiguous()?;
    model.params_mut().set(id, new);
    Ok(Some((id, old)))
}

/// Query, key, value and output of one block.
///
/// # Errors
/// As [`remove_heads`].
pub(super) fn attention_modules(model: &Model, layer: usize) -> Result<[ModuleShape; 4]> {
    let sizes = model.config().attention_heads();
    let find =
        |kind| model.linear_modules().iter().find(|m| m.layer == layer && m.kind == kind && m.stored == Stored::OutIn);
    let found = [ModuleKind::Query, ModuleKind::Key, ModuleKind::Value, ModuleKind::Output].map(find);
    match found {
        [Some(query), Some(key), Some(value), Some(output)] if sizes.heads == sizes.key_value_heads => {
            Ok([query, key, value, output].map(Clone::clone))
        }
        _ => Err(ModelError::Unsupported {
            what: "pruning heads that share keys, or whose matrices are one".into(),
            instead: "BERT, RoBERTa and DistilBERT classifiers are pruned".into(),
        }
        .into()),
    }
}

/// The weight of one module.
pub(super) fn weight_of<'a>(model: &'a Model, module: &ModuleShape) -> &'a Tensor {
    model.params().get(weight_id(model, module))
}

/// Where the weight of one module is.
pub(super) fn weight_id(model: &Model, module: &ModuleShape) -> ParamId {
    model.params().find(&format!("{}.weight", module.name)).expect("every module has its weight")
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
