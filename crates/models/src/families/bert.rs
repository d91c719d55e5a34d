//! BERT as a sequence classifier: attention in both directions, norms behind each sum, a pooler on the first
//! token (arXiv 1810.04805). Every token is of the first type.

use serde::Deserialize;

use super::encoder::Encoder;
use super::plan::Plan;
use super::{Family, Sizes};
use crate::error::Result;
use crate::kernels::Activation;
use crate::wiring::Wiring;

/// `config.json` of a BERT classifier.
#[derive(Debug, Deserialize)]
pub(super) struct BertConfig {
    #[serde(flatten)]
    encoder: Encoder,
}

impl Family for BertConfig {
    fn sizes(&self) -> Sizes {
        self.encoder.sizes(0)
    }

    fn check(&self) -> Result<()> {
        self.encoder.check()
    }

    fn wire(&self, plan: &mut Plan) -> Wiring {
        self.encoder.wire(plan, "bert", 0, |plan, d, labels| {
            plan.encoder_head(("bert.pooler.dense", Activation::Tanh), "classifier", d, labels)
        })
    }
}
