//! Gemma 2: Gemma with norms behind both parts of a block as well, capped scores and logits, and a window in
//! every other layer (arXiv 2408.00118).

use serde::Deserialize;

use super::decoder::{Decoder, DecoderRules, GemmaFields};
use super::plan::{NormKind, Plan};
use super::{Family, Sizes, check_window, require};
use crate::error::Result;
use crate::kernels::{Activation, AttentionSettings};
use crate::layers::{Block, Norms, SelfAttention, Stem};
use crate::wiring::Wiring;

const RULES: DecoderRules = DecoderRules {
    head_width: Some(256),
    key_value_heads_default: false,
    tied: true,
    sliding_layers: true,
    ..DecoderRules::LLAMA
};

/// `config.json` of a Gemma 2 checkpoint. Absent fields are those of the 9B release, `null` switches a cap or
/// the window off.
#[derive(Debug, Deserialize)]
pub(super) struct Gemma2Config {
    #[serde(flatten)]
    decoder: Decoder,
    #[serde(flatten)]
    gemma: GemmaFields,
    #[serde(default = "released::window")]
    sliding_window: Option<usize>,
    #[serde(default = "released::query_scalar")]
    query_pre_attn_scalar: f64,
    #[serde(default = "released::score_cap")]
    attn_logit_softcapping: Option<f64>,
    #[serde(default = "released::logit_cap")]
    final_logit_softcapping: Option<f64>,
}

mod released {
    pub fn window() -> Option<usize> {
        Some(4096)
    }

    pub fn query_scalar() -> f64 {
        256.0
    }

    pub fn score_cap() -> Option<f64> {
        Some(50.0)
    }

    pub fn logit_cap() -> Option<f64> {
        Some(30.0)
    }
}

impl Gemma2Config {
    /// The attention of a layer: scores scaled by `query_pre_attn_scalar` instead of the head's width,
    /// capped, and within the window in the layers that slide, by default the first and every other one
    /// behind it.
    fn attention(&self, layer: usize) -> AttentionSettings {
        let slides = match self.decoder.layer_types() {
            Some(types) => types[layer] == "sliding_attention",
            None => layer.is_multiple_of(2),
        };
        AttentionSettings {
            scale: self.query_pre_attn_scalar.powf(-0.5) as f32,
            softcap: self.attn_logit_softcapping.map(|cap| cap as f32),
            window: self.sliding_window.filter(|_| slides),
            ..AttentionSettings::causal(self.decoder.heads(RULES).head_width)
        }
    }
}

impl Family for Gemma2Config {
    fn sizes(&self) -> Sizes {
        self.decoder.sizes(RULES)
    }

    fn check(&self) -> Result<()> {
        self.gemma.check(&self.decoder)?;
        check_window(self.sliding_window)?;
        let above_zero = |name: &str, value: f64| {
            require(value.is_finite() && value > 0.0, &format!("{name} above 0"), value.to_string())
        };
        above_zero("query_pre_attn_scalar", self.query_pre_attn_scalar)?;
        above_zero("attn_logit_softcapping", self.attn_logit_softcapping.unwrap_or(1.0))?;
        above_zero("final_logit_softcapping", self.final_logit_softcapping.unwrap_or(1.0))?;
        if let Some(types) = self.decoder.layer_types() {
            let known = types.iter().all(|kind| ["sliding_attention", "full_attention"].contains(&kind.as_str()));
            require(
                known && types.len() == self.decoder.num_hidden_layers,
                "one of sliding_attention and full_attention for each layer",
                format!("{types:?}"),
            )?;
        }
        self.decoder.check(RULES)
    }

    fn wire(&self, plan: &mut Plan) -> Wiring {
        let decoder = &self.decoder;
        let (norm, rope, heads) = (decoder.norm(NormKind::RmsPlusOne), decoder.rope(RULES), decoder.heads(RULES));
        let embedding = decoder.embedding(plan);
        let blocks = plan.blocks("model.layers", decoder.num_hidden_layers, |block| Block {
            attention_norms: Norms {
                before: Some(block.norm("input_layernorm", norm)),
                after: Some(block.norm("post_attention_layernorm", norm)),
                of_sum: None,
            },
            attention: SelfAttention {
                inputs: decoder.separate_inputs(block, heads, false),
                head_norms: None,
                rope: Some(rope.clone()),
                settings: self.attention(block.layer),
                output: decoder.attention_output(block, heads),
            },
            mlp_norms: Norms {
                before: Some(block.norm("pre_feedforward_layernorm", norm)),
                after: Some(block.norm("post_feedforward_layernorm", norm)),
                of_sum: None,
            },
            mlp: decoder.gated_mlp(block, Activation::GeluTanh),
        });
        let stem = Stem { factor: Some((decoder.hidden_size as f64).sqrt()), ..Stem::default() };
        let final_norm = Some(plan.norm("model.norm", norm));
        let head = decoder.head(plan, embedding, RULES, self.final_logit_softcapping.map(|cap| cap as f32));
        Wiring { embedding, stem, blocks, final_norm, head }
    }
}
