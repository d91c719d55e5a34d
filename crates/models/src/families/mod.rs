//! The families: configuration, tensor names and layer wiring, one file each. Arithmetic lives in `layers/`.
//!
//! To add one: a file here, a variant of [`FamilyConfig`], an arm in each `match` below.

mod llama;

use serde::{Deserialize, Serialize};

pub use llama::{LlamaConfig, RopeParameters};

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::model::Model;

/// What a linear layer does in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleKind {
    /// Attention queries; reads the residual stream.
    Query,
    /// Attention keys; reads the residual stream.
    Key,
    /// Attention values; reads the residual stream.
    Value,
    /// Attention output; writes to the residual stream.
    Output,
    /// Attention queries, keys and values in one matrix, in this order; reads the residual stream.
    QueryKeyValue,
    /// MLP gate; reads the residual stream.
    Gate,
    /// MLP up-projection, or the first of two matrices; reads the residual stream.
    Up,
    /// MLP gate and up-projection in one matrix, in this order; reads the residual stream.
    GateUp,
    /// MLP down-projection; writes to the residual stream.
    Down,
}

impl ModuleKind {
    /// Whether the module belongs to the MLP.
    pub fn is_mlp(self) -> bool {
        matches!(self, Self::Gate | Self::Up | Self::GateUp | Self::Down)
    }

    /// Whether the module writes to the residual stream; the others read it.
    pub fn writes_residual(self) -> bool {
        matches!(self, Self::Output | Self::Down)
    }
}

/// Which way round a linear layer's weight lies, on disk and in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    /// `[out, in]`, as almost everywhere.
    OutIn,
    /// `[in, out]`: GPT-2's `Conv1D`.
    InOut,
}

/// How many heads a family's attention has, and how wide they are; the same in every block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionHeads {
    /// Query heads `h`.
    pub heads: usize,
    /// Key-value heads `g`; `h` is a multiple of it.
    pub key_value_heads: usize,
    /// Width `k` of one head.
    pub head_width: usize,
}

/// One adaptable linear layer of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleShape {
    /// Full module name, such as `model.layers.0.mlp.gate_proj`.
    pub name: String,
    /// What it does.
    pub kind: ModuleKind,
    /// Index of its block.
    pub layer: usize,
    /// Numbers that come out for each row: rows of the weight, unless `stored` says otherwise.
    pub out_features: usize,
    /// Numbers that go in.
    pub in_features: usize,
    /// Which way round the weight lies.
    pub stored: Stored,
}

/// The part of `config.json` that a family reads, picked by `model_type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model_type", rename_all = "lowercase")]
pub enum FamilyConfig {
    /// Llama 2 and 3, TinyLlama, CodeLlama.
    Llama(LlamaConfig),
}

impl FamilyConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for an unknown `model_type` or a setting that changes the arithmetic,
    /// [`ModelError::Format`] for missing or contradictory numbers.
    pub fn from_json(config: &serde_json::Value) -> Result<Self> {
        let model_type = config.get("model_type").and_then(|t| t.as_str()).unwrap_or("(missing)");
        if model_type != "llama" {
            return Err(ModelError::Unsupported {
                what: format!("model_type `{model_type}`"),
                instead: "this version reads llama".into(),
            });
        }
        let family: Self = serde_json::from_value(config.clone()).map_err(|error| ModelError::Format {
            path: "config.json".into(),
            expected: format!("a {model_type} configuration"),
            found: error.to_string(),
        })?;
        match &family {
            Self::Llama(config) => config.check()?,
        }
        Ok(family)
    }

    /// The linear layers that an adapter may sit on, block by block; the head is not among them.
    pub fn linear_modules(&self) -> Vec<ModuleShape> {
        match self {
            Self::Llama(config) => config.linear_modules(),
        }
    }

    /// Name and shape of every tensor that a checkpoint of this configuration holds.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::Llama(config) => config.tensor_shapes(),
        }
    }

    /// Rows of the embedding.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Llama(config) => config.vocab_size,
        }
    }

    /// Longest sequence the model was made for, in tokens.
    pub fn max_positions(&self) -> usize {
        match self {
            Self::Llama(config) => config.max_position_embeddings,
        }
    }

    /// Width `d` of the residual stream.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Llama(config) => config.hidden_size,
        }
    }

    /// Width `f` of the MLP.
    pub fn intermediate_size(&self) -> usize {
        match self {
            Self::Llama(config) => config.intermediate_size,
        }
    }

    /// Heads of the attention.
    pub fn attention_heads(&self) -> AttentionHeads {
        match self {
            Self::Llama(config) => AttentionHeads {
                heads: config.num_attention_heads,
                key_value_heads: config.key_value_heads(),
                head_width: config.head_width(),
            },
        }
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        match self {
            Self::Llama(config) => config.num_hidden_layers,
        }
    }
}

/// Loads the weights of a checkpoint into a model of its family.
pub(crate) fn build_model(checkpoint: &Checkpoint, device: &candle_core::Device) -> Result<Model> {
    let family = FamilyConfig::from_json(&checkpoint.config_json)?;
    check_tensors(&family, checkpoint)?;
    check_tied_head(&family, checkpoint)?;
    match family {
        FamilyConfig::Llama(config) => llama::build(config, |name| checkpoint.load(name, device), device),
    }
}

/// A model of this configuration with the weights that `weight` gives for each tensor name and shape.
///
/// # Errors
/// What `weight` returns.
pub fn build_fresh_model(
    config: FamilyConfig,
    device: &candle_core::Device,
    mut weight: impl FnMut(&str, &[usize]) -> Result<candle_core::Tensor>,
) -> Result<Model> {
    let shapes: std::collections::HashMap<_, _> = config.tensor_shapes().into_iter().collect();
    match config {
        FamilyConfig::Llama(config) => llama::build(config, |name| weight(name, &shapes[name]), device),
    }
}

/// Checks that every tensor of the configuration is there in its shape and as numbers, and that there is no other; headers
/// suffice.
///
/// # Errors
/// [`ModelError::Tensor`] with the first that differs.
pub fn check_tensors(family: &FamilyConfig, checkpoint: &Checkpoint) -> Result<()> {
    let expected = family.tensor_shapes();
    for (name, shape) in &expected {
        checkpoint.expect(name, shape)?;
    }
    let known: std::collections::HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    match checkpoint.names().into_iter().find(|name| !known.contains(&**name) && !may_be_ignored(name)) {
        Some(name) => Err(ModelError::Tensor {
            tensor: name.to_string(),
            expected: "only tensors that the configuration names".into(),
            found: "one more".into(),
        }),
        None => Ok(()),
    }
}

/// Checks that a head which is tied to the embedding, and nevertheless stored, is the embedding; reads both.
///
/// # Errors
/// [`ModelError::Tensor`] with the first number that differs.
pub fn check_tied_head(family: &FamilyConfig, checkpoint: &Checkpoint) -> Result<()> {
    const HEAD: &str = "lm_head.weight";
    let expected = family.tensor_shapes();
    if checkpoint.shape(HEAD).is_none() || expected.iter().any(|(name, _)| name == HEAD) {
        return Ok(());
    }
    let is_embedding = |name: &str| name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight");
    match expected.iter().find(|(name, _)| is_embedding(name)) {
        Some((embedding, _)) => checkpoint.expect_equal(HEAD, embedding),
        None => Ok(()),
    }
}

/// Old Llama conversions stored the rotary frequencies, which follow from the configuration; some exports of tied models
/// store the head a second time.
fn may_be_ignored(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name == "lm_head.weight"
}
