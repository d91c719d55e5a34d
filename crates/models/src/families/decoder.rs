//! The common ground of the rotary decoders: the fields of their configurations and the parts that are the
//! same in several of them.

use std::sync::Arc;

use serde::Deserialize;

use super::plan::{BlockPlan, HeadStyle, NormKind, NormStyle, Plan};
use super::rope::RopeFields;
use super::task::{Task, TaskFields};
use super::{Sizes, refuse, require};
use crate::error::Result;
use crate::kernels::{Activation, RopeTable};
use crate::layers::{AttentionInputs, Block, Linear, Mlp, Norms, SelfAttention, Stem};
use crate::modules::{AttentionHeads, ModuleKind};
use crate::params::ParamId;
use crate::wiring::{ModelHead, Wiring};

/// Fields under the names of `config.json`. Absent ones mean what transformers takes them to mean, which
/// differs by family where a method below asks for a default.
#[derive(Debug, Deserialize)]
pub(super) struct Decoder {
    pub vocab_size: usize,
    pub hidden_size: usize,
    intermediate_size: usize,
    pub num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default)]
    num_key_value_heads: Option<usize>,
    #[serde(default)]
    head_dim: Option<usize>,
    pub max_position_embeddings: usize,
    rms_norm_eps: f64,
    #[serde(default)]
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    layer_types: Option<Vec<String>>,
    #[serde(flatten)]
    rope: RopeFields,
    #[serde(flatten)]
    task: TaskFields,
}

/// A family's rules for the fields above.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecoderRules {
    /// Width of a head where `head_dim` is absent; `None` means `hidden_size / num_attention_heads`.
    pub head_width: Option<usize>,
    /// True when the number of key-value heads may be absent and is then that of the query heads.
    pub key_value_heads_default: bool,
    /// True when the head is the embedding where nothing is said.
    pub tied: bool,
    /// True when a part of each head may turn.
    pub partial_rotary: bool,
    /// True when `layer_types` may name anything but full attention.
    pub sliding_layers: bool,
}

impl DecoderRules {
    /// Llama's.
    pub const LLAMA: Self = Self {
        head_width: None,
        key_value_heads_default: true,
        tied: false,
        partial_rotary: false,
        sliding_layers: false,
    };
}

impl Decoder {
    pub fn sizes(&self, rules: DecoderRules) -> Sizes {
        Sizes {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.num_hidden_layers,
            max_positions: self.max_position_embeddings,
            heads: self.heads(rules),
            labels: match self.task.of_decoder() {
                Task::Language => None,
                Task::Classify(labels) => Some(labels),
            },
        }
    }

    pub fn heads(&self, rules: DecoderRules) -> AttentionHeads {
        let heads = self.num_attention_heads;
        let head_width = self.head_dim.or(rules.head_width);
        AttentionHeads {
            heads,
            key_value_heads: self.num_key_value_heads.unwrap_or(heads),
            head_width: head_width.unwrap_or_else(|| self.hidden_size.checked_div(heads).unwrap_or(0)),
        }
    }

    /// Refuses what no rotary decoder here computes. Sizes have been checked before.
    pub fn check(&self, rules: DecoderRules) -> Result<()> {
        let h = self.num_attention_heads;
        require(
            self.head_dim.is_some() || rules.head_width.is_some() || self.hidden_size.is_multiple_of(h),
            "hidden_size a multiple of num_attention_heads",
            format!("{} and {h}", self.hidden_size),
        )?;
        require(
            self.num_key_value_heads.is_some() || rules.key_value_heads_default,
            "num_key_value_heads",
            "nothing".into(),
        )?;
        super::check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        for (set, what) in [(self.attention_bias, "attention_bias"), (self.mlp_bias, "mlp_bias")] {
            if set {
                return Err(refuse(what, "upload a model without biases there"));
            }
        }
        let other_layers = self.layer_types.iter().flatten().find(|kind| *kind != "full_attention");
        if let (Some(kind), false) = (other_layers, rules.sliding_layers) {
            return Err(refuse(format!("layer type `{kind}`"), "in this family every layer has full attention"));
        }
        self.rope.check(self.heads(rules).head_width, rules.partial_rotary)?;
        self.task.check_decoder()
    }

    /// Refuses an activation other than the family's.
    pub fn check_activation(&self, expected: &str) -> Result<()> {
        match self.hidden_act.as_deref() {
            None => Ok(()),
            Some(name) if name == expected => Ok(()),
            Some(other) => Err(refuse(format!("hidden_act `{other}`"), &format!("{expected} is computed here"))),
        }
    }

    /// `layer_types`, where the file has it.
    pub fn layer_types(&self) -> Option<&[String]> {
        self.layer_types.as_deref()
    }

    pub fn norm(&self, kind: NormKind) -> NormStyle {
        NormStyle { kind, width: self.hidden_size, epsilon: self.rms_norm_eps }
    }

    pub fn rope(&self, rules: DecoderRules) -> Arc<RopeTable> {
        self.rope.table(self.heads(rules).head_width, self.max_position_embeddings)
    }

    pub fn embedding(&self, plan: &mut Plan) -> ParamId {
        plan.table("model.embed_tokens", self.vocab_size, self.hidden_size)
    }

    /// Three projections; `biased` says whether they have biases.
    pub fn separate_inputs(&self, block: &mut BlockPlan<'_>, heads: AttentionHeads, biased: bool) -> AttentionInputs {
        let d = self.hidden_size;
        let mut linear = |kind, name, out_features| match biased {
            true => block.biased_linear(kind, name, d, out_features),
            false => block.linear(kind, name, d, out_features),
        };
        AttentionInputs::Separate {
            query: linear(ModuleKind::Query, "self_attn.q_proj", heads.query_width()),
            key: linear(ModuleKind::Key, "self_attn.k_proj", heads.key_width()),
            value: linear(ModuleKind::Value, "self_attn.v_proj", heads.key_width()),
        }
    }

    pub fn attention_output(&self, block: &mut BlockPlan<'_>, heads: AttentionHeads) -> Linear {
        block.linear(ModuleKind::Output, "self_attn.o_proj", heads.query_width(), self.hidden_size)
    }

    pub fn gated_mlp(&self, block: &mut BlockPlan<'_>, activation: Activation) -> Mlp {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        Mlp::Gated {
            gate: block.linear(ModuleKind::Gate, "mlp.gate_proj", d, f),
            up: block.linear(ModuleKind::Up, "mlp.up_proj", d, f),
            activation,
            down: block.linear(ModuleKind::Down, "mlp.down_proj", f, d),
        }
    }

    pub fn fused_gated_mlp(&self, block: &mut BlockPlan<'_>, activation: Activation) -> Mlp {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        Mlp::GatedFused {
            gate_up: block.linear(ModuleKind::GateUp, "mlp.gate_up_proj", d, 2 * f),
            activation,
            down: block.linear(ModuleKind::Down, "mlp.down_proj", f, d),
        }
    }

    /// Llama's arrangement around the family's own attention: RMSNorm in front of both parts, a gated MLP
    /// with SiLU, a final norm.
    pub fn wire_like_llama(
        &self,
        plan: &mut Plan,
        rules: DecoderRules,
        mut attention: impl FnMut(&mut BlockPlan<'_>, AttentionHeads, Arc<RopeTable>) -> SelfAttention,
    ) -> Wiring {
        let (norm, rope, heads) = (self.norm(NormKind::Rms), self.rope(rules), self.heads(rules));
        let embedding = self.embedding(plan);
        let blocks = plan.blocks("model.layers", self.num_hidden_layers, |block| Block {
            attention_norms: Norms::before(block.norm("input_layernorm", norm)),
            attention: attention(block, heads, rope.clone()),
            mlp_norms: Norms::before(block.norm("post_attention_layernorm", norm)),
            mlp: self.gated_mlp(block, Activation::Silu),
        });
        let final_norm = Some(plan.norm("model.norm", norm));
        let head = self.head(plan, embedding, rules, None);
        Wiring { embedding, stem: Stem::default(), blocks, final_norm, head }
    }

    /// The head that the task asks for.
    pub fn head(&self, plan: &mut Plan, embedding: ParamId, rules: DecoderRules, softcap: Option<f32>) -> ModelHead {
        let style = match self.task.of_decoder() {
            Task::Classify(labels) => HeadStyle::Score { labels },
            Task::Language if self.tie_word_embeddings.unwrap_or(rules.tied) => HeadStyle::Tied(embedding),
            Task::Language => HeadStyle::Untied { vocab_size: self.vocab_size },
        };
        plan.head(style, self.hidden_size, softcap)
    }
}

/// The fields of Gemma's configurations beside those above.
#[derive(Debug, Deserialize)]
pub(super) struct GemmaFields {
    /// Counts before `hidden_act`.
    #[serde(default)]
    hidden_activation: Option<String>,
    #[serde(default)]
    use_bidirectional_attention: Option<bool>,
}

impl GemmaFields {
    /// Readers disagree about a bare `hidden_act` of `gelu`: some take it for the approximation that Gemma
    /// was trained with.
    pub fn check(&self, decoder: &Decoder) -> Result<()> {
        if self.use_bidirectional_attention == Some(true) {
            return Err(refuse("use_bidirectional_attention", "upload a causal model"));
        }
        match self.hidden_activation.as_deref() {
            None => decoder.check_activation("gelu_pytorch_tanh"),
            Some("gelu_pytorch_tanh") => Ok(()),
            Some(other) => Err(refuse(format!("hidden_activation `{other}`"), "gelu_pytorch_tanh is computed here")),
        }
    }
}
