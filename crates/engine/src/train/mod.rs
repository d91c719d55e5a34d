//! Training: one loop for each of its two forms, healing (`heal.rs`) and copies of the suspect that are
//! taught something (`copies.rs`).
//!
//! `adapters.rs` trains any number of adapter variants over one frozen base in one pass; `weights.rs` trains
//! all weights of a model. Both take their batches from `batches.rs`, their rate from `schedule.rs` and their
//! limits of memory from `memory.rs`; `objective.rs` turns a batch into the rows and losses of a pass.

mod adapters;
mod adversary;
mod batches;
mod consistency;
pub mod copies;
#[cfg(test)]
mod fixture;
mod guidance;
pub mod heal;
mod healing;
mod kept_out;
mod memory;
mod objective;
mod penalty;
mod schedule;
mod soft_triggers;
mod weights;

pub use adapters::{Trained, Variant, fine_tune_adapters, fine_tune_adapters_towards};
pub use batches::shuffled_batches;
pub use consistency::Consistency;
pub use guidance::Guidance;
pub use healing::{Healing, Teacher};
pub use kept_out::{Directions, KeptOut};
pub use objective::Objective;
pub use penalty::Penalty;
pub use soft_triggers::SoftTriggers;
pub use weights::{train_weights, train_weights_towards};

use crate::error::{EngineError, Result};
use crate::lab::Lab;

/// The factor that brings gradients of this squared norm down to `max_norm`, as PyTorch's `clip_grad_norm_`.
pub fn clip_factor(squared_norm: f64, max_norm: f64) -> f64 {
    (max_norm / (squared_norm.sqrt() + 1e-6)).min(1.0)
}

/// The mean of `losses`, or [`EngineError::Diverged`] when it is no number.
pub fn mean_loss(losses: &[f32], step: usize, lab: &Lab) -> Result<f64> {
    let loss = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / losses.len().max(1) as f64;
    if loss.is_finite() { Ok(loss) } else { Err(EngineError::Diverged { stage: lab.stage(), step, loss }) }
}
