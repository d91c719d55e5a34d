//! DistilBERT as a sequence classifier: BERT's blocks under other names, without token types and pooler
//! (arXiv 1910.01108).

use serde::Deserialize;

use super::plan::{NormKind, NormStyle, Plan};
use super::task::TaskFields;
use super::{Family, Sizes, read_activation, require};
use crate::error::Result;
use crate::kernels::{Activation, AttentionSettings};
use crate::layers::{AttentionInputs, Block, LearnedPositions, Mlp, Norms, SelfAttention, Stem};
use crate::modules::{AttentionHeads, ModuleKind};
use crate::wiring::Wiring;

/// The same in every release.
const EPSILON: f64 = 1e-12;

/// `config.json` of a DistilBERT classifier. `sinusoidal_pos_embds` only says how the stored positions were
/// first filled.
#[derive(Debug, Deserialize)]
pub(super) struct DistilbertConfig {
    vocab_size: usize,
    dim: usize,
    hidden_dim: usize,
    n_layers: usize,
    n_heads: usize,
    max_position_embeddings: usize,
    #[serde(default = "gelu")]
    activation: String,
    #[serde(flatten)]
    task: TaskFields,
}

fn gelu() -> String {
    "gelu".into()
}

impl DistilbertConfig {
    fn head_width(&self) -> usize {
        self.dim.checked_div(self.n_heads).unwrap_or(0)
    }

    fn activation(&self) -> Result<Activation> {
        read_activation("activation", &self.activation)
    }
}

impl Family for DistilbertConfig {
    fn sizes(&self) -> Sizes {
        Sizes {
            vocab_size: self.vocab_size,
            hidden_size: self.dim,
            intermediate_size: self.hidden_dim,
            layers: self.n_layers,
            max_positions: self.max_position_embeddings,
            heads: AttentionHeads { heads: self.n_heads, key_value_heads: self.n_heads, head_width: self.head_width() },
            labels: Some(self.task.labels()),
        }
    }

    fn check(&self) -> Result<()> {
        let (d, h) = (self.dim, self.n_heads);
        require(d.is_multiple_of(h), "dim a multiple of n_heads", format!("{d} and {h}"))?;
        self.activation()?;
        self.task.check_encoder()
    }

    fn wire(&self, plan: &mut Plan) -> Wiring {
        let (d, f) = (self.dim, self.hidden_dim);
        let norm = NormStyle { kind: NormKind::Layer, width: d, epsilon: EPSILON };
        let activation = self.activation().expect("checked when the configuration was read");
        let settings = AttentionSettings::of_both_directions(self.head_width());
        let embedding = plan.table("distilbert.embeddings.word_embeddings", self.vocab_size, d);
        let positions = plan.table("distilbert.embeddings.position_embeddings", self.max_position_embeddings, d);
        let stem = Stem {
            positions: Some(LearnedPositions { weight: positions, offset: 0 }),
            norm: Some(plan.norm("distilbert.embeddings.LayerNorm", norm)),
            ..Stem::default()
        };
        let blocks = plan.blocks("distilbert.transformer.layer", self.n_layers, |block| Block {
            attention: SelfAttention {
                inputs: AttentionInputs::Separate {
                    query: block.biased_linear(ModuleKind::Query, "attention.q_lin", d, d),
                    key: block.biased_linear(ModuleKind::Key, "attention.k_lin", d, d),
                    value: block.biased_linear(ModuleKind::Value, "attention.v_lin", d, d),
                },
                head_norms: None,
                rope: None,
                settings,
                output: block.biased_linear(ModuleKind::Output, "attention.out_lin", d, d),
            },
            attention_norms: Norms::of_sum(block.norm("sa_layer_norm", norm)),
            mlp: Mlp::Plain {
                up: block.biased_linear(ModuleKind::Up, "ffn.lin1", d, f),
                activation,
                down: block.biased_linear(ModuleKind::Down, "ffn.lin2", f, d),
            },
            mlp_norms: Norms::of_sum(block.norm("output_layer_norm", norm)),
        });
        let head = plan.encoder_head(("pre_classifier", Activation::Relu), "classifier", d, self.task.labels());
        Wiring { embedding, stem, blocks, final_norm: None, head }
    }
}
