//! Training: the recipe of one fine-tuning, and the one loop for each of its two forms.
//!
//! `adapters.rs` trains any number of adapter variants over one frozen base in one pass; `weights.rs` trains all weights of a
//! model. Both take their batches from `batches.rs`, their rate from `schedule.rs` and what they may keep in memory from `memory.rs`; what
//! a batch is learnt from is decided in `lesson.rs`.

mod adapters;
mod adversary;
mod batches;
mod consistency;
#[cfg(test)]
mod fixture;
mod guidance;
mod kept_out;
mod lesson;
mod memory;
mod penalty;
mod schedule;
mod soft_triggers;
mod weights;

use serde::{Deserialize, Serialize};

pub use adapters::{Trained, Variant, fine_tune_adapters, fine_tune_adapters_towards};
pub use adversary::Adversary;
pub(crate) use batches::shuffled_batches;
pub use consistency::{Consistency, ConsistencySettings};
pub use guidance::{Guidance, GuidanceSettings};
pub use kept_out::{Directions, KeptOut};
pub use lesson::Objective;
pub use penalty::Penalty;
pub use soft_triggers::{SoftTriggerPlace, SoftTriggerScope, SoftTriggerSettings, SoftTriggers};
pub use weights::{train_weights, train_weights_towards};

use crate::error::{EngineError, Result};
use crate::lab::Lab;

/// How to fine-tune: AdamW, cosine schedule after a linear warm-up, loss on response tokens only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSpec {
    /// Highest learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// Passes over the rows.
    pub epochs: usize,
    /// Rows of one optimiser step.
    pub batch_rows: usize,
    /// Fraction of all steps in which the rate rises.
    pub warmup_fraction: f64,
    /// Gradients are scaled down to this norm: an adapter's as a whole; of a whole model, whose gradients never exist together, each
    /// block's to its share.
    pub max_gradient_norm: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Longer rows lose the end of their answer, and those whose prompt alone is longer are left out; the report counts both.
    pub max_tokens: usize,
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            learning_rate: 2e-4,
            epochs: 5,
            batch_rows: 8,
            warmup_fraction: 0.1,
            max_gradient_norm: 1.0,
            weight_decay: 0.0,
            max_tokens: 1024,
        }
    }
}

impl TrainSpec {
    /// Optimiser steps over this many rows.
    pub fn steps(&self, rows: usize) -> usize {
        self.epochs * rows.div_ceil(self.batch_rows)
    }
}

/// The factor that brings gradients of this squared norm down to `max_norm`, as PyTorch's `clip_grad_norm_`.
pub(crate) fn clip_factor(squared_norm: f64, max_norm: f64) -> f64 {
    (max_norm / (squared_norm.sqrt() + 1e-6)).min(1.0)
}

/// The mean of `losses`, or [`EngineError::Diverged`] when it is no number.
pub(crate) fn mean_loss(losses: &[f32], step: usize, lab: &Lab) -> Result<f64> {
    let loss = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / losses.len().max(1) as f64;
    if loss.is_finite() { Ok(loss) } else { Err(EngineError::Diverged { stage: lab.stage(), step, loss }) }
}
