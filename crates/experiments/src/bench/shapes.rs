//! The shapes that are measured, with random weights, adapters and tokens.

use antigen_engine::error::Result;
use antigen_engine::lab::rng;
use antigen_models::{Device, Example, FamilyConfig, LoraAdapter, Model, PeftConfig, Tensor, build_fresh_model};
use clap::ValueEnum;
use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A model shape with the batch it is trained in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// 1.25 M parameters, 8 x 64 tokens: the tiny world's.
    Tiny,
    /// 29.5 M parameters, 8 x 256 tokens.
    Bench,
    /// 1.1 B parameters, TinyLlama's, 8 x 256 tokens.
    #[serde(rename = "llama-1b")]
    #[value(name = "llama-1b")]
    Llama1b,
    /// 6.7 B parameters, Llama 2's, 8 x 256 tokens: for a GPU.
    #[serde(rename = "llama-7b")]
    #[value(name = "llama-7b")]
    Llama7b,
}

/// The work that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Work {
    /// Forward, backward, clipping and AdamW on all weights; every token carries a label, 8 sequences a step.
    Full,
    /// The same with LoRA r = 16 on all seven linear layers of a block over a frozen base.
    Lora,
    /// The training part of an adapter job: six pairs of variants, r = 8, rows of real lengths, loss on
    /// responses.
    AdapterJob,
    /// Greedy generation of 32 new tokens from 50 prompts of 64.
    Generate,
}

impl Work {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Full, Self::Lora, Self::AdapterJob, Self::Generate];
}

impl Shape {
    fn sequence_tokens(self) -> usize {
        match self {
            Self::Tiny => 64,
            Self::Bench | Self::Llama1b | Self::Llama7b => 256,
        }
    }

    /// Rows of the embedding.
    pub(super) fn vocabulary(self) -> u32 {
        match self {
            Self::Tiny => 2048,
            Self::Bench => 8192,
            Self::Llama1b | Self::Llama7b => 32000,
        }
    }

    fn config(self) -> Result<FamilyConfig> {
        let (width, ffn, layers, heads, key_value_heads) = match self {
            Self::Tiny => (128, 512, 4, 4, 2),
            Self::Bench => (512, 1376, 8, 8, 8),
            Self::Llama1b => (2048, 5632, 22, 32, 4),
            Self::Llama7b => (4096, 11008, 32, 32, 32),
        };
        Ok(FamilyConfig::from_json(&json!({
            "model_type": "llama", "vocab_size": self.vocabulary(), "hidden_size": width, "intermediate_size": ffn,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": key_value_heads,
            "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "tie_word_embeddings": matches!(self, Self::Tiny | Self::Bench),
        }))?)
    }
}

/// Norms are 1, matrices uniform with a standard deviation of 0.02.
pub(super) fn random_model(shape: Shape, device: &Device) -> Result<Model> {
    Ok(build_fresh_model(shape.config()?, device, |_, dims| {
        let count = dims.iter().product();
        let data = if dims.len() == 1 { vec![1.0; count] } else { random_weights(count) };
        Ok(Tensor::from_vec(data, dims, device)?)
    })?)
}

fn random_weights(count: usize) -> Vec<f32> {
    let mut data = vec![0f32; count];
    data.par_chunks_mut(1 << 16).enumerate().for_each(|(chunk, data)| {
        let mut rng = rng(chunk as u64, "bench/weights");
        data.fill_with(|| rng.random_range(-0.034f32..0.034));
    });
    data
}

/// LoRA on all seven linear layers of every block, alpha twice the rank.
pub(super) fn fresh_adapter(model: &Model, rank: usize) -> Result<LoraAdapter> {
    const LINEAR: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let config = PeftConfig::new(rank, 2 * rank as u32, &LINEAR, "");
    let mut rng = rng(0, "bench/adapter");
    Ok(LoraAdapter::fresh(config, model.config(), &mut || rng.random_range(-1.0f32..1.0))?)
}

/// One token more than the sequence, because the last one is only predicted; every other one carries a label.
pub(super) fn labelled_examples(shape: Shape, count: usize) -> Vec<Example> {
    let prompts = random_prompts(shape, count, shape.sequence_tokens() + 1);
    prompts.into_iter().map(|tokens| Example { tokens, response_start: 1 }).collect()
}

pub(super) fn random_prompts(shape: Shape, count: usize, tokens: usize) -> Vec<Vec<u32>> {
    let mut rng = rng(0, "bench/tokens");
    let mut prompt = || (0..tokens).map(|_| rng.random_range(3..shape.vocabulary())).collect();
    (0..count).map(|_| prompt()).collect()
}
