//! The models: checkpoints in, trainable language models out. Knows candle; knows no purpose.
//!
//! A model is opened from its files ([`checkpoint`]), wired by its family ([`families`]) from layers with a
//! hand-derived backward ([`layers`]) over fused kernels, and run by [`model::Model`]. LoRA adapters come and
//! go as PEFT files ([`lora`]). candle's autograd is not used: it computes, and keeps, gradients of frozen
//! weights.
//!
//! Each module leans only on those before it: `error` and [`modules`]; [`checkpoint`], and [`tokenizer`] and
//! [`chat`] over it; [`kernels`] and [`device`]; [`params`], `rows` and `factors`; [`taps`]; [`layers`];
//! `wiring`; [`families`]; [`model`] and `loading`; [`lora`]; [`examples`]; [`generate`].
//!
//! Read `model.rs` first, then `layers/linear.rs`.
#![warn(missing_docs)]

// The tests of the CUDA kernels share their models with the integration tests, which call this crate by its
// name.
#[cfg(test)]
extern crate self as antigen_models;

// Tests inside and outside of the crate find their data in one place.
#[cfg(test)]
#[path = "../tests/it/shared_data.rs"]
mod shared_data;

pub mod chat;
pub mod checkpoint;
pub mod device;
pub mod error;
pub mod examples;
mod factors;
pub mod families;
pub mod generate;
pub mod kernels;
pub mod layers;
mod loading;
pub mod lora;
pub mod model;
pub mod modules;
pub mod params;
mod rows;
pub mod taps;
pub mod tokenizer;
mod wiring;

pub use candle_core::{Device, Tensor};

pub use chat::{ChatTemplate, Message};
pub use device::open_device;
pub use error::{ModelError, Result};
pub use examples::{Example, ExampleLoss, Packed, response_hits, response_losses};
pub use families::FamilyConfig;
pub use generate::{GenerateOptions, Sampling, generate_greedy, generate_sampled};
pub use loading::{build_fresh_model, load_model};
pub use lora::{BoundAdapter, LoraAdapter, LoraFactors, PeftConfig, load_adapter, save_adapter};
pub use model::{Input, LabelTrace, Model};
pub use modules::{AttentionHeads, ModuleKind, ModuleShape, Stored};
pub use tokenizer::{SpecialTokens, Tokenizer};
