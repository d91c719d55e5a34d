//! GPT-2: LayerNorm, learned positions, weights stored `[in, out]`, one matrix for queries, keys and values,
//! a plain MLP.

use serde::Deserialize;

use super::plan::{HeadStyle, NormKind, NormStyle, Plan};
use super::task::{Task, TaskFields};
use super::{Family, Sizes, check_epsilon, read_activation, refuse, require};
use crate::error::Result;
use crate::kernels::{Activation, AttentionSettings};
use crate::layers::{AttentionInputs, Block, LearnedPositions, Mlp, Norms, SelfAttention, Stem};
use crate::modules::{AttentionHeads, ModuleKind};
use crate::wiring::Wiring;

/// `config.json` of a GPT-2 checkpoint.
#[derive(Debug, Deserialize)]
pub(super) struct Gpt2Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    /// Absent means `4 d`.
    #[serde(default)]
    n_inner: Option<usize>,
    layer_norm_epsilon: f64,
    #[serde(default = "gelu_new")]
    activation_function: String,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default)]
    add_cross_attention: bool,
    #[serde(flatten)]
    task: TaskFields,
}

fn gelu_new() -> String {
    "gelu_new".into()
}

fn yes() -> bool {
    true
}

impl Gpt2Config {
    fn mlp_width(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    fn head_width(&self) -> usize {
        self.n_embd.checked_div(self.n_head).unwrap_or(0)
    }

    fn activation(&self) -> Result<Activation> {
        read_activation("activation_function", &self.activation_function)
    }
}

impl Family for Gpt2Config {
    fn sizes(&self) -> Sizes {
        Sizes {
            vocab_size: self.vocab_size,
            hidden_size: self.n_embd,
            intermediate_size: self.mlp_width(),
            layers: self.n_layer,
            max_positions: self.n_positions,
            heads: AttentionHeads { heads: self.n_head, key_value_heads: self.n_head, head_width: self.head_width() },
            labels: match self.task.of_decoder() {
                Task::Language => None,
                Task::Classify(labels) => Some(labels),
            },
        }
    }

    fn check(&self) -> Result<()> {
        require(
            self.n_embd.is_multiple_of(self.n_head),
            "n_embd a multiple of n_head",
            format!("{} and {}", self.n_embd, self.n_head),
        )?;
        check_epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        self.activation()?;
        for (set, what) in [
            (!self.scale_attn_weights, "scale_attn_weights false"),
            (self.scale_attn_by_inverse_layer_idx, "scale_attn_by_inverse_layer_idx"),
            (self.add_cross_attention, "add_cross_attention"),
        ] {
            if set {
                return Err(refuse(what, "upload a model with GPT-2's own attention"));
            }
        }
        self.task.check_decoder()
    }

    fn wire(&self, plan: &mut Plan) -> Wiring {
        let (d, f) = (self.n_embd, self.mlp_width());
        let norm = NormStyle { kind: NormKind::Layer, width: d, epsilon: self.layer_norm_epsilon };
        let activation = self.activation().expect("checked when the configuration was read");
        let embedding = plan.table("transformer.wte", self.vocab_size, d);
        let positions = LearnedPositions { weight: plan.table("transformer.wpe", self.n_positions, d), offset: 0 };
        let blocks = plan.blocks("transformer.h", self.n_layer, |block| Block {
            attention_norms: Norms::before(block.norm("ln_1", norm)),
            attention: SelfAttention {
                inputs: AttentionInputs::Fused {
                    all: block.conv1d(ModuleKind::QueryKeyValue, "attn.c_attn", d, 3 * d),
                    widths: [d; 3],
                },
                head_norms: None,
                rope: None,
                settings: AttentionSettings::causal(self.head_width()),
                output: block.conv1d(ModuleKind::Output, "attn.c_proj", d, d),
            },
            mlp_norms: Norms::before(block.norm("ln_2", norm)),
            mlp: Mlp::Plain {
                up: block.conv1d(ModuleKind::Up, "mlp.c_fc", d, f),
                activation,
                down: block.conv1d(ModuleKind::Down, "mlp.c_proj", f, d),
            },
        });
        let final_norm = Some(plan.norm("transformer.ln_f", norm));
        let head = plan.head(
            match self.task.of_decoder() {
                Task::Classify(labels) => HeadStyle::Score { labels },
                Task::Language if self.tie_word_embeddings => HeadStyle::Tied(embedding),
                Task::Language => HeadStyle::Untied { vocab_size: self.vocab_size },
            },
            d,
            None,
        );
        Wiring { embedding, stem: Stem { positions: Some(positions), ..Stem::default() }, blocks, final_norm, head }
    }
}
