//! Phi 3 and 3.5: Llama with queries, keys and values in one matrix, gate and up-projection in another, and
//! heads of which only a part may turn (arXiv 2404.14219). The `longrope` scaling of the long-context
//! releases is not computed.

use serde::Deserialize;

use super::decoder::{Decoder, DecoderRules};
use super::plan::{NormKind, Plan};
use super::{Family, Sizes, check_window};
use crate::error::Result;
use crate::kernels::{Activation, AttentionSettings};
use crate::layers::{AttentionInputs, Block, Norms, SelfAttention, Stem};
use crate::modules::ModuleKind;
use crate::wiring::Wiring;

const RULES: DecoderRules = DecoderRules { partial_rotary: true, ..DecoderRules::LLAMA };

/// `config.json` of a Phi 3 checkpoint.
#[derive(Debug, Deserialize)]
pub(super) struct Phi3Config {
    #[serde(flatten)]
    decoder: Decoder,
    #[serde(default)]
    sliding_window: Option<usize>,
}

impl Family for Phi3Config {
    fn sizes(&self) -> Sizes {
        self.decoder.sizes(RULES)
    }

    fn check(&self) -> Result<()> {
        check_window(self.sliding_window)?;
        self.decoder.check_activation("silu")?;
        self.decoder.check(RULES)
    }

    fn wire(&self, plan: &mut Plan) -> Wiring {
        let decoder = &self.decoder;
        let (norm, rope, heads) = (decoder.norm(NormKind::Rms), decoder.rope(RULES), decoder.heads(RULES));
        let settings = AttentionSettings { window: self.sliding_window, ..AttentionSettings::causal(heads.head_width) };
        let widths = [heads.query_width(), heads.key_width(), heads.key_width()];
        let (d, all) = (decoder.hidden_size, widths.iter().sum());
        let embedding = decoder.embedding(plan);
        let blocks = plan.blocks("model.layers", decoder.num_hidden_layers, |block| Block {
            attention_norms: Norms::before(block.norm("input_layernorm", norm)),
            attention: SelfAttention {
                inputs: AttentionInputs::Fused {
                    all: block.linear(ModuleKind::QueryKeyValue, "self_attn.qkv_proj", d, all),
                    widths,
                },
                head_norms: None,
                rope: Some(rope.clone()),
                settings,
                output: decoder.attention_output(block, heads),
            },
            mlp_norms: Norms::before(block.norm("post_attention_layernorm", norm)),
            mlp: decoder.fused_gated_mlp(block, Activation::Silu),
        });
        let final_norm = Some(plan.norm("model.norm", norm));
        let head = decoder.head(plan, embedding, RULES, None);
        Wiring { embedding, stem: Stem::default(), blocks, final_norm, head }
    }
}
