//! Qwen 2 and 2.5: Llama with biases on queries, keys and values.

use serde::Deserialize;

use super::decoder::{Decoder, DecoderRules};
use super::plan::Plan;
use super::{Family, Sizes, refuse};
use crate::error::Result;
use crate::kernels::AttentionSettings;
use crate::layers::SelfAttention;
use crate::wiring::Wiring;

const RULES: DecoderRules = DecoderRules { key_value_heads_default: false, ..DecoderRules::LLAMA };

/// `config.json` of a Qwen 2 checkpoint.
#[derive(Debug, Deserialize)]
pub(super) struct Qwen2Config {
    #[serde(flatten)]
    decoder: Decoder,
    #[serde(default)]
    use_sliding_window: bool,
}

impl Family for Qwen2Config {
    fn sizes(&self) -> Sizes {
        self.decoder.sizes(RULES)
    }

    fn check(&self) -> Result<()> {
        if self.use_sliding_window {
            return Err(refuse("use_sliding_window", "upload a model whose attention is full in every layer"));
        }
        self.decoder.check_activation("silu")?;
        self.decoder.check(RULES)
    }

    fn wire(&self, plan: &mut Plan) -> Wiring {
        self.decoder.wire_like_llama(plan, RULES, |block, heads, rope| SelfAttention {
            inputs: self.decoder.separate_inputs(block, heads, true),
            head_norms: None,
            rope: Some(rope),
            settings: AttentionSettings::causal(heads.head_width),
            output: self.decoder.attention_output(block, heads),
        })
    }
}
