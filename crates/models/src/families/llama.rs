//! Llama: RMSNorm, rotary positions (plain and llama3 scaling), grouped-query attention, gated MLP, tied or untied head.

use std::f64::consts::TAU;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{FamilyConfig, ModuleKind, ModuleShape, Stored};
use crate::error::{ModelError, Result};
use crate::kernels::{AttentionSettings, RopeTable};
use crate::layers::{Block, GatedMlp, Head, Linear, ModuleIdx, RmsNorm, SelfAttention};
use crate::model::{Model, Wiring};
use crate::params::{ParamId, Params};

/// `config.json` of a Llama checkpoint; fields that do not change the arithmetic are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width `d` of the residual stream.
    pub hidden_size: usize,
    /// Width `f` of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads `h`.
    pub num_attention_heads: usize,
    /// Key-value heads `g`; absent means as many as query heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// Width `k` of a head; absent means `d / h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Whether the head is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Base of the rotary frequencies, in files written before `rope_parameters` existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// Rotary scaling, in files written before `rope_parameters` existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeParameters>,
    /// Rotary base and scaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
    /// Only `silu` is Llama.
    #[serde(default = "silu")]
    pub hidden_act: String,
    /// Biases on attention projections: not Llama, refused.
    #[serde(default)]
    pub attention_bias: bool,
    /// Biases on MLP projections: not Llama, refused.
    #[serde(default)]
    pub mlp_bias: bool,
    /// Set by quantised exports, refused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization_config: Option<serde_json::Value>,
}

/// Rotary base and scaling.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RopeParameters {
    /// `default` or `llama3`; `type` in old files.
    #[serde(default, alias = "type")]
    pub rope_type: Option<String>,
    /// Base of the frequencies.
    #[serde(default)]
    pub rope_theta: Option<f64>,
    /// llama3: how much low frequencies slow down.
    #[serde(default)]
    pub factor: Option<f64>,
    /// llama3: below `original / low_freq_factor` wavelengths are slowed down wholly.
    #[serde(default)]
    pub low_freq_factor: Option<f64>,
    /// llama3: above `original / high_freq_factor` nothing changes.
    #[serde(default)]
    pub high_freq_factor: Option<f64>,
    /// llama3: context length before scaling.
    #[serde(default)]
    pub original_max_position_embeddings: Option<usize>,
}

fn silu() -> String {
    "silu".into()
}

impl LlamaConfig {
    /// Key-value heads `g`.
    pub fn key_value_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Width `k` of one head.
    pub fn head_width(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Refuses what this family does not compute, and numbers that contradict each other or could only exhaust memory.
    pub(super) fn check(&self) -> Result<()> {
        let (h, g) = (self.num_attention_heads, self.key_value_heads());
        let sizes = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            h,
            g,
            self.max_position_embeddings,
        ];
        require(
            sizes.iter().all(|&n| (1..1 << 24).contains(&n)),
            "sizes between 1 and 16,777,215",
            format!("{sizes:?}"),
        )?;
        require(self.num_hidden_layers <= 1024, "at most 1,024 layers", self.num_hidden_layers.to_string())?;
        require(h.is_multiple_of(g), "query heads a multiple of key-value heads", format!("{h} and {g}"))?;
        let head_width = self.head_width();
        require(
            (2..=1024).contains(&head_width) && head_width.is_multiple_of(2),
            "an even head width of 2 to 1,024",
            head_width.to_string(),
        )?;
        require(
            self.head_dim.is_some() || self.hidden_size.is_multiple_of(h),
            "hidden_size a multiple of num_attention_heads",
            format!("{} and {h}", self.hidden_size),
        )?;
        require(
            self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0,
            "rms_norm_eps of 0 or more",
            self.rms_norm_eps.to_string(),
        )?;
        let refused = [
            (self.hidden_act != "silu", format!("hidden_act `{}`", self.hidden_act)),
            (self.attention_bias, "attention_bias".into()),
            (self.mlp_bias, "mlp_bias".into()),
            (self.quantization_config.is_some(), "quantization_config".into()),
        ];
        if let Some((_, what)) = refused.into_iter().find(|(set, _)| *set) {
            return Err(ModelError::Unsupported { what, instead: "upload plain float weights of a Llama".into() });
        }
        self.frequencies().map(|_| ())
    }

    /// Angular frequency of each rotary pair, radians per position, `[k/2]`: `theta^(-2i/k)`, for llama3 slowed down by
    /// `factor` at long wavelengths with a linear blend between the two corner wavelengths.
    fn frequencies(&self) -> Result<Vec<f64>> {
        let rope = self.rope_parameters.clone().or_else(|| self.rope_scaling.clone()).unwrap_or_default();
        let theta = rope.rope_theta.or(self.rope_theta).unwrap_or(10_000.0);
        require(theta.is_finite() && theta > 0.0, "rope_theta above 0", theta.to_string())?;
        let k = self.head_width() as f64;
        let plain = (0..self.head_width() / 2).map(|i| theta.powf(-2.0 * i as f64 / k));
        match rope.rope_type.as_deref().unwrap_or("default") {
            "default" => Ok(plain.collect()),
            "llama3" => {
                let number = |value: Option<f64>, name: &str| {
                    value
                        .filter(|v| v.is_finite() && *v > 0.0)
                        .ok_or_else(|| invalid(&format!("llama3 rope `{name}` above 0"), format!("{value:?}")))
                };
                let factor = number(rope.factor, "factor")?;
                let low = number(rope.low_freq_factor, "low_freq_factor")?;
                let high = number(rope.high_freq_factor, "high_freq_factor")?;
                let original = number(
                    rope.original_max_position_embeddings.map(|n| n as f64),
                    "original_max_position_embeddings",
                )?;
                require(high > low, "high_freq_factor above low_freq_factor", format!("{high} and {low}"))?;
                Ok(plain.map(|f| slow_down(f, factor, low, high, original)).collect())
            }
            other => Err(ModelError::Unsupported {
                what: format!("rope type `{other}`"),
                instead: "default and llama3 are read".into(),
            }),
        }
    }

    pub(super) fn linear_modules(&self) -> Vec<ModuleShape> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let (queries, keys) =
            (self.num_attention_heads * self.head_width(), self.key_value_heads() * self.head_width());
        let kinds = [
            ("self_attn.q_proj", ModuleKind::Query, queries, d),
            ("self_attn.k_proj", ModuleKind::Key, keys, d),
            ("self_attn.v_proj", ModuleKind::Value, keys, d),
            ("self_attn.o_proj", ModuleKind::Output, d, queries),
            ("mlp.gate_proj", ModuleKind::Gate, f, d),
            ("mlp.up_proj", ModuleKind::Up, f, d),
            ("mlp.down_proj", ModuleKind::Down, d, f),
        ];
        (0..self.num_hidden_layers)
            .flat_map(|layer| {
                kinds.into_iter().map(move |(name, kind, out_features, in_features)| ModuleShape {
                    name: format!("model.layers.{layer}.{name}"),
                    kind,
                    layer,
                    out_features,
                    in_features,
                    stored: Stored::OutIn,
                })
            })
            .collect()
    }

    pub(super) fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let d = self.hidden_size;
        let mut shapes = vec![("model.embed_tokens.weight".into(), vec![self.vocab_size, d])];
        shapes.extend(
            self.linear_modules()
                .into_iter()
                .map(|m| (format!("{}.weight", m.name), vec![m.out_features, m.in_features])),
        );
        for layer in 0..self.num_hidden_layers {
            shapes.push((format!("model.layers.{layer}.input_layernorm.weight"), vec![d]));
            shapes.push((format!("model.layers.{layer}.post_attention_layernorm.weight"), vec![d]));
        }
        shapes.push(("model.norm.weight".into(), vec![d]));
        if !self.tie_word_embeddings {
            shapes.push(("lm_head.weight".into(), vec![self.vocab_size, d]));
        }
        shapes
    }
}

fn slow_down(frequency: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let turns = original * frequency / TAU;
    if turns < low {
        frequency / factor
    } else if turns > high {
        frequency
    } else {
        let blend = (turns - low) / (high - low);
        frequency * ((1.0 - blend) / factor + blend)
    }
}

fn invalid(expected: &str, found: String) -> ModelError {
    ModelError::Format { path: "config.json".into(), expected: expected.into(), found }
}

fn require(holds: bool, expected: &str, found: String) -> Result<()> {
    if holds { Ok(()) } else { Err(invalid(expected, found)) }
}

/// Wires the layers; `weight` gives each tensor by name.
pub(super) fn build(
    config: LlamaConfig,
    mut weight: impl FnMut(&str) -> Result<Tensor>,
    device: &Device,
) -> Result<Model> {
    let mut params = Params::default();
    let mut param = |name: String| -> Result<ParamId> {
        let tensor = weight(&name)?;
        params.insert(name, tensor)
    };
    let embedding = param("model.embed_tokens.weight".into())?;
    let modules = config.linear_modules();
    let mut linears = Vec::with_capacity(modules.len());
    for (index, module) in modules.iter().enumerate() {
        linears.push(Linear { module: ModuleIdx(index), weight: param(format!("{}.weight", module.name))? });
    }
    let rope = Arc::new(RopeTable::new(&config.frequencies()?, config.max_position_embeddings));
    let settings = AttentionSettings::causal(config.head_width());
    let mut norm =
        |name: String| -> Result<RmsNorm> { Ok(RmsNorm { weight: param(name)?, epsilon: config.rms_norm_eps }) };
    let mut blocks = Vec::with_capacity(config.num_hidden_layers);
    for (layer, linears) in linears.chunks(7).enumerate() {
        let [query, key, value, output, gate, up, down] =
            linears.to_vec().try_into().expect("chunks of seven modules a layer");
        blocks.push(Block {
            attention_norm: norm(format!("model.layers.{layer}.input_layernorm.weight"))?,
            attention: SelfAttention { query, key, value, output, settings, rope: rope.clone() },
            mlp_norm: norm(format!("model.layers.{layer}.post_attention_layernorm.weight"))?,
            mlp: GatedMlp { gate, up, down },
        });
    }
    let final_norm = norm("model.norm.weight".into())?;
    let head = Head { weight: if config.tie_word_embeddings { embedding } else { param("lm_head.weight".into())? } };
    let cache_width = config.key_value_heads() * config.head_width();
    let wiring = Wiring { embedding, blocks, final_norm, head, cache_width };
    Ok(Model::new(FamilyConfig::Llama(config), modules, params, wiring, device.clone()))
}
