//! The families: configuration, tensor names and layer wiring, one file each. Arithmetic lives in `layers/`.
//!
//! To add one: a file here with its `Family`, and a line in `FAMILIES`. Read `llama.rs` first, then
//! `plan.rs`.

mod bert;
mod decoder;
mod distilbert;
mod encoder;
mod gemma;
mod gemma2;
mod gpt2;
mod llama;
mod mistral;
mod phi3;
mod plan;
mod qwen2;
mod qwen3;
mod roberta;
mod rope;
mod task;

use std::collections::HashSet;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use crate::modules::{AttentionHeads, ModuleKind, ModuleShape, Stored};

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::kernels::Activation;
use crate::wiring::{Blueprint, Wiring};
use plan::Plan;

/// Every family by its `model_type`.
const FAMILIES: &[(&str, Reader)] = &[
    ("llama", read::<llama::LlamaConfig>),
    ("mistral", read::<mistral::MistralConfig>),
    ("qwen2", read::<qwen2::Qwen2Config>),
    ("qwen3", read::<qwen3::Qwen3Config>),
    ("gemma", read::<gemma::GemmaConfig>),
    ("gemma2", read::<gemma2::Gemma2Config>),
    ("phi3", read::<phi3::Phi3Config>),
    ("gpt2", read::<gpt2::Gpt2Config>),
    ("bert", read::<bert::BertConfig>),
    ("roberta", read::<roberta::RobertaConfig>),
    ("distilbert", read::<distilbert::DistilbertConfig>),
];

type Reader = fn(&Value) -> serde_json::Result<Arc<dyn Family>>;

fn read<F: Family + DeserializeOwned + 'static>(config: &Value) -> serde_json::Result<Arc<dyn Family>> {
    Ok(Arc::new(F::deserialize(config)?))
}

/// The contract of a family: its configuration implements this.
trait Family: std::fmt::Debug + Send + Sync {
    /// The extents, before anything about them was checked.
    fn sizes(&self) -> Sizes;

    /// Refuses what this family does not compute, and numbers that contradict each other. [`Sizes::check`]
    /// has passed.
    fn check(&self) -> Result<()>;

    /// Asks the plan for every tensor and puts the layers together. [`Family::check`] has passed.
    fn wire(&self, plan: &mut Plan) -> Wiring;
}

/// The extents of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width `d` of the residual stream.
    pub hidden_size: usize,
    /// Width `f` of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Longest sequence the model was made for, in tokens.
    pub max_positions: usize,
    /// Heads of the attention.
    pub heads: AttentionHeads,
    /// Labels of a sequence classifier; `None` for a language model.
    pub labels: Option<usize>,
}

impl Sizes {
    /// Refuses sizes that could only exhaust memory.
    fn check(&self) -> Result<()> {
        let AttentionHeads { heads: h, key_value_heads: g, head_width } = self.heads;
        let sizes = [self.vocab_size, self.hidden_size, self.intermediate_size, self.layers, h, g, self.max_positions];
        require(
            sizes.iter().all(|&n| (1..1 << 24).contains(&n)),
            "sizes between 1 and 16,777,215",
            format!("{sizes:?}"),
        )?;
        require(self.layers <= 1024, "at most 1,024 layers", self.layers.to_string())?;
        require(h.is_multiple_of(g), "query heads a multiple of key-value heads", format!("{h} and {g}"))?;
        require(
            (2..=1024).contains(&head_width) && head_width.is_multiple_of(2),
            "an even head width of 2 to 1,024",
            head_width.to_string(),
        )
    }
}

/// A `config.json` that a family has read and found in order.
#[derive(Debug, Clone)]
pub struct FamilyConfig {
    json: Value,
    family: Arc<dyn Family>,
}

impl FamilyConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for an unknown `model_type` or a setting that changes the arithmetic,
    /// [`ModelError::Format`] for missing or contradictory numbers.
    pub fn from_json(config: &Value) -> Result<Self> {
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("(missing)");
        let Some((_, read)) = FAMILIES.iter().find(|(name, _)| *name == model_type) else {
            let known: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
            return Err(refuse(
                format!("model_type `{model_type}`"),
                &format!("this version reads {}", known.join(", ")),
            ));
        };
        let family =
            read(config).map_err(|error| invalid(&format!("a {model_type} configuration"), error.to_string()))?;
        if config.get("quantization_config").is_some_and(|setting| !setting.is_null()) {
            return Err(refuse("quantization_config", "upload plain float weights"));
        }
        family.sizes().check()?;
        family.check()?;
        Ok(Self { json: config.clone(), family })
    }

    /// The `config.json` as it was read.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// All extents.
    pub fn sizes(&self) -> Sizes {
        self.family.sizes()
    }

    /// The linear layers that an adapter may sit on, block by block; poolers and heads are not among them.
    pub fn linear_modules(&self) -> Vec<ModuleShape> {
        self.blueprint().modules
    }

    /// Name and shape of every tensor that a checkpoint of this configuration holds.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.blueprint().tensors
    }

    /// Rows of the embedding.
    pub fn vocab_size(&self) -> usize {
        self.sizes().vocab_size
    }

    /// Longest sequence the model was made for, in tokens.
    pub fn max_positions(&self) -> usize {
        self.sizes().max_positions
    }

    /// Width `d` of the residual stream.
    pub fn hidden_size(&self) -> usize {
        self.sizes().hidden_size
    }

    /// Width `f` of the MLP.
    pub fn intermediate_size(&self) -> usize {
        self.sizes().intermediate_size
    }

    /// Heads of the attention.
    pub fn attention_heads(&self) -> AttentionHeads {
        self.sizes().heads
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.sizes().layers
    }

    /// The model without its numbers.
    pub(crate) fn blueprint(&self) -> Blueprint {
        let mut plan = Plan::default();
        let wiring = self.family.wire(&mut plan);
        Blueprint { tensors: plan.tensors, modules: plan.modules, wiring }
    }
}

/// Checks that every tensor of the configuration is there in its shape and as numbers, and that there is no
/// other; headers suffice.
///
/// # Errors
/// [`ModelError::Tensor`] with the first that differs.
pub fn check_tensors(family: &FamilyConfig, checkpoint: &Checkpoint) -> Result<()> {
    let expected = family.tensor_shapes();
    for (name, shape) in &expected {
        checkpoint.expect(name, shape)?;
    }
    let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
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

/// Old conversions stored what follows from the configuration: rotary frequencies, the numbers of the
/// positions, GPT-2's causal mask. Some exports of tied models store the head a second time.
fn may_be_ignored(name: &str) -> bool {
    let computed = ["rotary_emb.inv_freq", "embeddings.position_ids", ".attn.bias", ".attn.masked_bias"];
    computed.iter().any(|ending| name.ends_with(ending)) || name == "lm_head.weight"
}

fn invalid(expected: &str, found: String) -> ModelError {
    ModelError::Format { path: "config.json".into(), expected: expected.into(), found }
}

fn refuse(what: impl Into<String>, instead: &str) -> ModelError {
    ModelError::Unsupported { what: what.into(), instead: instead.into() }
}

fn require(holds: bool, expected: &str, found: String) -> Result<()> {
    if holds { Ok(()) } else { Err(invalid(expected, found)) }
}

fn check_epsilon(name: &str, epsilon: f64) -> Result<()> {
    require(epsilon.is_finite() && epsilon >= 0.0, &format!("{name} of 0 or more"), epsilon.to_string())
}

fn read_activation(field: &str, name: &str) -> Result<Activation> {
    Activation::find(name)
        .ok_or_else(|| refuse(format!("{field} `{name}`"), "silu, gelu, gelu_new, relu and tanh are computed"))
}

fn check_window(window: Option<usize>) -> Result<()> {
    require(window.is_none_or(|window| window > 0), "a sliding_window of at least 1", format!("{window:?}"))
}
