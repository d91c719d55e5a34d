//! (vi) Monte Carlo dropout: heads whose attention varies little, or about which the model is unsure, go
//! first.
//!
//! Dropout is on in the sense in which it is Bayesian (Gal and Ghahramani, ICML 2016): each pass draws one
//! model, by dropping units of the outputs of the embeddings, of each attention and of each MLP, and asks
//! that model about all sequences. A unit is dropped with its row of the matrix and its bias, so the layers
//! need no hook, and the mask of a pass is the same for every token. BERT's training draws anew for each
//! token and also drops attention probabilities; neither changes the idea of the strategy.
//!
//! The abstract only says that the least informative heads go. Ours prunes by `mean / deviation` of the
//! variance score over passes, lowest first: a low mean and a high uncertainty both count, as where weights
//! are pruned by their signal-to-noise ratio (Blundell et al., ICML 2015). The released code averages the
//! score over passes with dropout switched off again, which is the plain variance score, and does not stop
//! where a step costs too much.

use antigen_models::params::ParamId;
use antigen_models::{Model, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lab::Lab;
use crate::methods::shared::head_pruning::removal::{along_outputs, multiply};
use crate::methods::shared::head_pruning::{Examined, HeadGrid, HeadRanker, HeadScores, OnMiss, Ranking};

/// The strategy's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BayesianSpec {
    /// Passes, each with a model of its own.
    pub passes: usize,
    /// Share of units that a pass drops, 0..1.
    pub dropout: f64,
}

impl Default for BayesianSpec {
    fn default() -> Self {
        Self { passes: 10, dropout: 0.1 }
    }
}

pub(in crate::methods::shared::head_pruning) struct BayesianRanker {
    pub spec: BayesianSpec,
    pub as_released: bool,
}

impl HeadRanker for BayesianRanker {
    fn rank(&self, examined: &mut Examined<'_>, lab: &Lab) -> Result<Ranking> {
        if self.as_released {
            // Ten passes without dropout are ten times the same.
            let scores = examined.attention_variance()?;
            return Ok(Ranking::InOrder { eligible: scores.grid().count(), scores, on_miss: OnMiss::Continue });
        }
        let mut rng = lab.rng("prune_heads/dropout");
        let mut passes = Vec::with_capacity(self.spec.passes);
        for _ in 0..self.spec.passes {
            lab.check_cancel()?;
            let dropped = drop_units(examined.model, self.spec.dropout, &mut rng)?;
            let scores = examined.attention_variance();
            dropped.into_iter().for_each(|(id, weight)| examined.model.params_mut().set(id, weight));
            passes.push(scores?);
        }
        Ok(Ranking::by_rule(signal_to_noise(examined.grid(), &passes)))
    }
}

/// Drops units of everything that writes to the residual stream, the others growing by `1 / (1 - share)`;
/// returns the weights that were replaced.
fn drop_units(model: &mut Model, share: f64, rng: &mut ChaCha8Rng) -> Result<Vec<(ParamId, Tensor)>> {
    let width = model.config().hidden_size();
    let grown = 1.0 / (1.0 - share) as f32;
    let device = model.device().clone();
    let mut draw = || -> Result<Tensor> {
        let mask: Vec<f32> = (0..width).map(|_| if rng.random_bool(share) { 0.0 } else { grown }).collect();
        Ok(Tensor::new(mask, &device)?)
    };
    let writing = model.linear_modules().iter().filter(|module| module.kind.writes_residual());
    let mut replaced = Vec::new();
    for module in writing.cloned().collect::<Vec<_>>() {
        let mask = draw()?;
        replaced.extend(multiply(model, &module.weight_name(), &along_outputs(&module, &mask)?)?);
        replaced.extend(multiply(model, &format!("{}.bias", module.name), &mask)?);
    }
    // An encoder's embeddings enter the stream through their norm, which loses units; a decoder's enter it as
    // they are, and keep all.
    let norm = model.params().iter().find_map(|(_, name, _)| name.strip_suffix(".LayerNorm.weight"));
    if let Some(norm) = norm.filter(|name| name.ends_with("embeddings")).map(|name| format!("{name}.LayerNorm")) {
        let mask = draw()?;
        replaced.extend(multiply(model, &format!("{norm}.weight"), &mask)?);
        replaced.extend(multiply(model, &format!("{norm}.bias"), &mask)?);
    }
    Ok(replaced)
}

/// Mean of each head's score over its deviation, which is divided by the number of passes.
fn signal_to_noise(grid: HeadGrid, passes: &[HeadScores]) -> HeadScores {
    let ratio = |head| {
        let scores: Vec<f64> = passes.iter().map(|pass| pass.get(head)).collect();
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / scores.len() as f64;
        mean / variance.sqrt().max(f64::MIN_POSITIVE)
    };
    HeadScores::new(grid, grid.iter().map(ratio).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::shared::head_pruning::HeadIdx;

    #[test]
    fn a_head_of_low_or_uncertain_score_comes_first() {
        let grid = HeadGrid { layers: 1, heads: 3 };
        let passes = [HeadScores::new(grid, vec![1.0, 4.0, 3.0]), HeadScores::new(grid, vec![3.0, 6.0, 9.0])];
        let found = signal_to_noise(grid, &passes);
        // Means 2, 5, 6 over deviations 1, 1, 3.
        assert_eq!([0, 1, 2].map(|head| found.get(HeadIdx { layer: 0, head })), [2.0, 5.0, 2.0]);
    }
}
