//! Qwen 3: Llama with a norm on each head's queries and keys before they turn (arXiv 2505.09388).

use serde::Deserialize;

use super::decoder::{Decoder, DecoderRules};
use super::plan::{NormKind, NormStyle, Plan};
use super::{Family, Sizes, refuse};
use crate::error::Result;
use crate::kernels::AttentionSettings;
use crate::layers::{HeadNorms, SelfAttention};
use crate::wiring::Wiring;

const RULES: DecoderRules =
    DecoderRules { head_width: Some(128), key_value_heads_default: false, ..DecoderRules::LLAMA };

/// `config.json` of a Qwen 3 checkpoint.
#[derive(Debug, Deserialize)]
pub(super) struct Qwen3Config {
    #[serde(flatten)]
    decoder: Decoder,
    #[serde(default)]
    use_sliding_window: bool,
}

impl Family for Qwen3Config {
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
        self.decoder.wire_like_llama(plan, RULES, |block, heads, rope| {
            let of_head = NormStyle { width: heads.head_width, ..self.decoder.norm(NormKind::Rms) };
            SelfAttention {
                inputs: self.decoder.separate_inputs(block, heads, false),
                head_norms: Some(HeadNorms {
                    query: block.norm("self_attn.q_norm", of_head),
                    key: block.norm("self_attn.k_norm", of_head),
                }),
                rope: Some(rope),
                settings: AttentionSettings::causal(heads.head_width),
                output: self.decoder.attention_output(block, heads),
            }
        })
    }
}
