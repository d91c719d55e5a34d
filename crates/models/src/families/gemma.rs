//! Gemma: scaled embeddings, norm weights stored as deviations from 1, a gate with GELU (arXiv 2403.08295).

use serde::Deserialize;

use super::decoder::{Decoder, DecoderRules, GemmaFields};
use super::plan::{NormKind, Plan};
use super::{Family, Sizes};
use crate::error::Result;
use crate::kernels::{Activation, AttentionSettings};
use crate::layers::{Block, Norms, SelfAttention, Stem};
use crate::wiring::Wiring;

const RULES: DecoderRules =
    DecoderRules { head_width: Some(256), key_value_heads_default: false, tied: true, ..DecoderRules::LLAMA };

/// `config.json` of a Gemma checkpoint.
#[derive(Debug, Deserialize)]
pub(super) struct GemmaConfig {
    #[serde(flatten)]
    decoder: Decoder,
    #[serde(flatten)]
    gemma: GemmaFields,
}

impl Family for GemmaConfig {
    fn sizes(&self) -> Sizes {
        self.decoder.sizes(RULES)
    }

    fn check(&self) -> Result<()> {
        self.gemma.check(&self.decoder)?;
        self.decoder.check(RULES)
    }

    fn wire(&self, plan: &mut Plan) -> Wiring {
        let decoder = &self.decoder;
        let (norm, rope, heads) = (decoder.norm(NormKind::RmsPlusOne), decoder.rope(RULES), decoder.heads(RULES));
        let embedding = decoder.embedding(plan);
        let blocks = plan.blocks("model.layers", decoder.num_hidden_layers, |block| Block {
            attention_norms: Norms::before(block.norm("input_layernorm", norm)),
            attention: SelfAttention {
                inputs: decoder.separate_inputs(block, heads, false),
                head_norms: None,
                rope: Some(rope.clone()),
                settings: AttentionSettings::causal(heads.head_width),
                output: decoder.attention_output(block, heads),
            },
            mlp_norms: Norms::before(block.norm("post_attention_layernorm", norm)),
            mlp: decoder.gated_mlp(block, Activation::GeluTanh),
        });
        let stem = Stem { factor: Some((decoder.hidden_size as f64).sqrt()), ..Stem::default() };
        let final_norm = Some(plan.norm("model.norm", norm));
        let head = decoder.head(plan, embedding, RULES, None);
        Wiring { embedding, stem, blocks, final_norm, head }
    }
}
