//! LoRA adapters by module name: in memory, bound to a model's layers (`bound.rs`), and as PEFT files
//! (`peft/`).
//!
//! Start with [`LoraAdapter`]; `factors.rs` has what a pass sees of it and `layers/linear.rs` the arithmetic.

mod bound;
mod peft;
mod widen;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

pub use peft::{
    AdaptedModule, PeftConfig, PeftTask, RankLookup, TargetModules, check_adapter_tensors, load_adapter,
    open_adapter_config, save_adapter,
};

pub use crate::factors::{BoundAdapter, LoraFactors};

use crate::error::Result;

/// A LoRA adapter in memory: its PEFT configuration and the factors by full module name
/// (`model.layers.0.mlp.gate_proj`; no `base_model.model.` prefix, no `.weight`).
#[derive(Debug, Clone)]
pub struct LoraAdapter {
    /// The configuration as it was read, written back unchanged.
    pub config: PeftConfig,
    /// Factors by module name, sorted by name.
    pub factors: BTreeMap<String, LoraFactors>,
}

/// Rows of `a` as they start: `[rows, inputs]`, uniform in `±1/sqrt(inputs)`, what PEFT's Kaiming start
/// amounts to. `rng` draws from -1 to 1.
fn fresh_rows(rows: usize, inputs: usize, device: &Device, rng: &mut dyn FnMut() -> f32) -> Result<Tensor> {
    let bound = 1.0 / (inputs as f32).sqrt();
    let draws: Vec<f32> = (0..rows * inputs).map(|_| bound * rng()).collect();
    Ok(Tensor::from_vec(draws, (rows, inputs), device)?)
}
