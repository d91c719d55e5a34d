//! Training speed on two fixed shapes, random weights and tokens: the work that other implementations are compared by.
//!
//! Full: forward, backward, clipping and AdamW on all weights. Adapter: the same with LoRA r = 16 on all seven linear layers of
//! a block over a frozen base. Every token carries a label; 8 sequences a step.

use std::time::Instant;

use antigen_models::{Device, Example, FamilyConfig, LoraAdapter, Model, PeftConfig, Tensor, build_fresh_model};
use rand::Rng;
use serde::Serialize;
use serde_json::json;

use crate::error::Result;
use crate::lab::{Lab, rng};
use crate::train::{TrainSpec, Variant, fine_tune_adapters, train_weights};

/// A model shape with the batch it is trained in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// 1.25 M parameters, 8 x 64 tokens: the tiny world's.
    Tiny,
    /// 29.5 M parameters, 8 x 256 tokens.
    Bench,
}

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// All weights.
    Full,
    /// A LoRA adapter.
    Adapter,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Speed {
    /// The shape.
    pub shape: Shape,
    /// The work.
    pub work: Work,
    /// Labelled tokens per second over all timed steps.
    pub tokens_per_second: f64,
    /// Timed optimiser steps.
    pub steps: usize,
    /// Seconds they took.
    pub seconds: f64,
}

const BATCH_ROWS: usize = 8;

impl Shape {
    fn sequence_tokens(self) -> usize {
        match self {
            Self::Tiny => 64,
            Self::Bench => 256,
        }
    }

    fn config(self) -> Result<FamilyConfig> {
        let (vocabulary, width, ffn, layers, heads, key_value_heads) = match self {
            Self::Tiny => (2048, 128, 512, 4, 4, 2),
            Self::Bench => (8192, 512, 1376, 8, 8, 8),
        };
        Ok(FamilyConfig::from_json(&json!({
            "model_type": "llama", "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": ffn,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": key_value_heads,
            "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
        }))?)
    }
}

/// Trains for about `seconds` after one untimed step, and reports the speed.
///
/// # Errors
/// What training says; never the input's fault.
pub fn measure_training(shape: Shape, work: Work, seconds: f64, lab: &Lab) -> Result<Speed> {
    let mut model = random_model(shape)?;
    let timed = |model: &mut Model, steps| -> Result<f64> {
        let examples = random_examples(shape, steps);
        let start = Instant::now();
        train(model, work, &examples, lab)?;
        Ok(start.elapsed().as_secs_f64())
    };
    timed(&mut model, 1)?;
    let one_step = timed(&mut model, 1)?;
    let steps = ((seconds / one_step).ceil() as usize).max(2);
    let seconds = timed(&mut model, steps)?;
    let tokens = steps * BATCH_ROWS * shape.sequence_tokens();
    Ok(Speed { shape, work, tokens_per_second: tokens as f64 / seconds, steps, seconds })
}

fn train(model: &mut Model, work: Work, examples: &[Example], lab: &Lab) -> Result<()> {
    let spec = TrainSpec { epochs: 1, batch_rows: BATCH_ROWS, learning_rate: 1e-4, ..TrainSpec::default() };
    let shuffle = lab.rng("bench/order");
    match work {
        Work::Full => train_weights(model, examples, &spec, shuffle, lab).map(|_| ()),
        Work::Adapter => {
            let start = fresh_adapter(model)?;
            fine_tune_adapters(model, vec![Variant { start: &start, examples, shuffle }], &spec, lab).map(|_| ())
        }
    }
}

fn random_model(shape: Shape) -> Result<Model> {
    let mut rng = rng(0, "bench/weights");
    Ok(build_fresh_model(shape.config()?, &Device::Cpu, |_, dims| {
        let scale = if dims.len() == 1 { 0.0 } else { 0.02 };
        let offset = if dims.len() == 1 { 1.0 } else { 0.0 };
        let count = dims.iter().product();
        let data: Vec<f32> = (0..count).map(|_| offset + scale * rng.random_range(-1.7f32..1.7)).collect();
        Ok(Tensor::from_vec(data, dims, &Device::Cpu)?)
    })?)
}

fn fresh_adapter(model: &Model) -> Result<LoraAdapter> {
    const LINEAR: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let config = PeftConfig::new(16, 32, &LINEAR, "");
    let mut rng = rng(0, "bench/adapter");
    Ok(LoraAdapter::fresh(config, model.config(), &mut || rng.random_range(-1.0f32..1.0))?)
}

/// One token more than the sequence, because the last one is only predicted; every other one carries a label.
fn random_examples(shape: Shape, steps: usize) -> Vec<Example> {
    let mut rng = rng(0, "bench/tokens");
    let tokens = shape.sequence_tokens() + 1;
    let mut example =
        || Example { tokens: (0..tokens).map(|_| rng.random_range(0..2048)).collect(), response_start: 1 };
    (0..steps * BATCH_ROWS).map(|_| example()).collect()
}
