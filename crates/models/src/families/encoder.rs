//! The common ground of BERT and RoBERTa: their fields, their embeddings, and blocks that normalise behind
//! each sum.

use serde::Deserialize;

use super::plan::{NormKind, NormStyle, Plan};
use super::task::TaskFields;
use super::{Sizes, check_epsilon, read_activation, refuse, require};
use crate::error::Result;
use crate::kernels::{Activation, AttentionSettings};
use crate::layers::{AttentionInputs, Block, LearnedPositions, Mlp, Norms, SelfAttention, Stem};
use crate::modules::{AttentionHeads, ModuleKind};
use crate::wiring::{ModelHead, Wiring};

/// Fields under the names of `config.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Encoder {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default)]
    pub pad_token_id: Option<usize>,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    add_cross_attention: bool,
    #[serde(flatten)]
    task: TaskFields,
}

fn gelu() -> String {
    "gelu".into()
}

impl Encoder {
    /// `first_position` is the row of the position table that belongs to position 0.
    pub fn sizes(&self, first_position: usize) -> Sizes {
        let heads = self.num_attention_heads;
        Sizes {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.num_hidden_layers,
            max_positions: self.max_position_embeddings.saturating_sub(first_position),
            heads: AttentionHeads {
                heads,
                key_value_heads: heads,
                head_width: self.hidden_size.checked_div(heads).unwrap_or(0),
            },
            labels: Some(self.task.labels()),
        }
    }

    pub fn check(&self) -> Result<()> {
        let (d, h) = (self.hidden_size, self.num_attention_heads);
        require(d.is_multiple_of(h), "hidden_size a multiple of num_attention_heads", format!("{d} and {h}"))?;
        let types = self.type_vocab_size;
        require((1..1 << 24).contains(&types), "type_vocab_size of at least 1", types.to_string())?;
        require(self.max_position_embeddings < 1 << 24, "fewer positions", self.max_position_embeddings.to_string())?;
        check_epsilon("layer_norm_eps", self.layer_norm_eps)?;
        self.activation()?;
        for (set, what) in [(self.is_decoder, "is_decoder"), (self.add_cross_attention, "add_cross_attention")] {
            if set {
                return Err(refuse(what, "upload an encoder that sees both directions"));
            }
        }
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => self.task.check_encoder(),
            Some(other) => Err(refuse(format!("position_embedding_type `{other}`"), "absolute positions are read")),
        }
    }

    fn activation(&self) -> Result<Activation> {
        read_activation("hidden_act", &self.hidden_act)
    }

    /// The model whose tensors lie under `prefix`; `head` wires what reads it.
    pub fn wire(
        &self,
        plan: &mut Plan,
        prefix: &str,
        first_position: usize,
        head: impl FnOnce(&mut Plan, usize, usize) -> ModelHead,
    ) -> Wiring {
        let (d, f, positions) = (self.hidden_size, self.intermediate_size, self.max_position_embeddings);
        let norm = NormStyle { kind: NormKind::Layer, width: d, epsilon: self.layer_norm_eps };
        let activation = self.activation().expect("checked when the configuration was read");
        let settings = AttentionSettings::of_both_directions(self.sizes(first_position).heads.head_width);
        let embeddings = format!("{prefix}.embeddings");
        let embedding = plan.table(&format!("{embeddings}.word_embeddings"), self.vocab_size, d);
        let stem = Stem {
            factor: None,
            positions: Some(LearnedPositions {
                weight: plan.table(&format!("{embeddings}.position_embeddings"), positions, d),
                offset: first_position as u32,
            }),
            token_types: Some(plan.table(&format!("{embeddings}.token_type_embeddings"), self.type_vocab_size, d)),
            norm: Some(plan.norm(&format!("{embeddings}.LayerNorm"), norm)),
        };
        let blocks = plan.blocks(&format!("{prefix}.encoder.layer"), self.num_hidden_layers, |block| Block {
            attention: SelfAttention {
                inputs: AttentionInputs::Separate {
                    query: block.biased_linear(ModuleKind::Query, "attention.self.query", d, d),
                    key: block.biased_linear(ModuleKind::Key, "attention.self.key", d, d),
                    value: block.biased_linear(ModuleKind::Value, "attention.self.value", d, d),
                },
                head_norms: None,
                rope: None,
                settings,
                output: block.biased_linear(ModuleKind::Output, "attention.output.dense", d, d),
            },
            attention_norms: Norms::of_sum(block.norm("attention.output.LayerNorm", norm)),
            mlp: Mlp::Plain {
                up: block.biased_linear(ModuleKind::Up, "intermediate.dense", d, f),
                activation,
                down: block.biased_linear(ModuleKind::Down, "output.dense", f, d),
            },
            mlp_norms: Norms::of_sum(block.norm("output.LayerNorm", norm)),
        });
        let head = head(plan, d, self.task.labels());
        Wiring { embedding, stem, blocks, final_norm: None, head }
    }
}
