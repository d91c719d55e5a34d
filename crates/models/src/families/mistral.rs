//! Mistral: Llama with a window beyond which attention does not look back (arXiv 2310.06825).

use serde::Deserialize;

use super::decoder::{Decoder, DecoderRules};
use super::plan::Plan;
use super::{Family, Sizes, check_window};
use crate::error::Result;
use crate::kernels::AttentionSettings;
use crate::layers::SelfAttention;
use crate::wiring::Wiring;

const RULES: DecoderRules = DecoderRules { key_value_heads_default: false, ..DecoderRules::LLAMA };

/// `config.json` of a Mistral checkpoint.
#[derive(Debug, Deserialize)]
pub(super) struct MistralConfig {
    #[serde(flatten)]
    decoder: Decoder,
    /// `null` means no window; absent means the first release's.
    #[serde(default = "first_release")]
    sliding_window: Option<usize>,
}

fn first_release() -> Option<usize> {
    Some(4096)
}

impl Family for MistralConfig {
    fn sizes(&self) -> Sizes {
        self.decoder.sizes(RULES)
    }

    fn check(&self) -> Result<()> {
        check_window(self.sliding_window)?;
        self.decoder.check_activation("silu")?;
        self.decoder.check(RULES)
    }

    fn wire(&self, plan: &mut Plan) -> Wiring {
        self.decoder.wire_like_llama(plan, RULES, |block, heads, rope| SelfAttention {
            inputs: self.decoder.separate_inputs(block, heads, false),
            head_norms: None,
            rope: Some(rope),
            settings: AttentionSettings { window: self.sliding_window, ..AttentionSettings::causal(heads.head_width) },
            output: self.decoder.attention_output(block, heads),
        })
    }
}
