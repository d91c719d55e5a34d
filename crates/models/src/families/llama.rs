//! Llama 2 and 3, TinyLlama, CodeLlama: RMSNorm, rotary positions, grouped-query attention, gated MLP, tied
//! or untied head.

use serde::Deserialize;

use super::decoder::{Decoder, DecoderRules};
use super::plan::Plan;
use super::{Family, Sizes};
use crate::error::Result;
use crate::kernels::AttentionSettings;
use crate::layers::SelfAttention;
use crate::wiring::Wiring;

const RULES: DecoderRules = DecoderRules::LLAMA;

/// `config.json` of a Llama checkpoint.
#[derive(Debug, Deserialize)]
pub(super) struct LlamaConfig {
    #[serde(flatten)]
    decoder: Decoder,
}

impl Family for LlamaConfig {
    fn sizes(&self) -> Sizes {
        self.decoder.sizes(RULES)
    }

    fn check(&self) -> Result<()> {
        self.decoder.check_activation("silu")?;
        self.decoder.check(RULES)
    }

    fn wire(&self, plan: &mut Plan) -> Wiring {
        self.decoder.wire_like_llama(plan, RULES, |block, heads, rope| SelfAttention {
            inputs: self.decoder.separate_inputs(block, heads, false),
            head_norms: None,
            rope: Some(rope),
            settings: AttentionSettings::causal(heads.head_width),
            output: self.decoder.attention_output(block, heads),
        })
    }
}
