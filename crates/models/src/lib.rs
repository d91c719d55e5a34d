//! The instruments: checkpoints in, trainable language models out. Knows candle; knows no purpose.
//!
//! A model is opened from its files ([`checkpoint`]), wired by its family ([`families`]) from layers with a hand-derived
//! backward ([`layers`]) over fused kernels, and run by [`model::Model`]. LoRA adapters come and go as PEFT files ([`lora`]).
//! candle's autograd is not used: it computes, and keeps, gradients of frozen weights.
//!
//! Read `model.rs` first, then `layers/linear.rs`.
#![warn(missing_docs)]

// The tests of the CUDA kernels share their models with the integration tests, which call this crate by its name.
#[cfg(test)]
extern crate self as antigen_models;

pub mod chat;
pub mod checkpoint;
pub mod device;
pub mod error;
pub mod examples;
pub mod families;
pub mod generate;
pub mod kernels;
pub mod layers;
pub mod lora;
pub mod model;
pub mod params;
pub mod taps;
pub mod tokenizer;

use std::path::Path;

pub use candle_core::{Device, Tensor};

pub use chat::{ChatTemplate, Message};
pub use device::open_device;
pub use error::{ModelError, Result};
pub use examples::{Example, ExampleLoss, Packed, response_hits, response_losses};
pub use families::{AttentionHeads, FamilyConfig, ModuleKind, ModuleShape, Stored, build_fresh_model};
pub use generate::{GenerateOptions, generate_greedy};
pub use lora::{BoundAdapter, LoraAdapter, LoraFactors, PeftConfig, load_adapter, save_adapter};
pub use model::{Input, LabelTrace, Model};
pub use tokenizer::{SpecialTokens, Tokenizer};

/// Loads a checkpoint folder (`config.json` and safetensors) as float32.
///
/// # Errors
/// [`ModelError`] naming the file or tensor that is not what the configuration says.
pub fn load_model(dir: &Path, device: &Device) -> Result<Model> {
    families::build_model(&checkpoint::open_checkpoint(dir)?, device)
}
