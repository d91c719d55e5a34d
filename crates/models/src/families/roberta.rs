//! RoBERTa as a sequence classifier: BERT whose positions begin behind the row of the padding token, with
//! another head (arXiv 1907.11692). Packed rows have no padding, so the positions of a sequence are
//! consecutive.

use serde::Deserialize;

use super::encoder::Encoder;
use super::plan::Plan;
use super::{Family, Sizes, require};
use crate::error::Result;
use crate::kernels::Activation;
use crate::wiring::Wiring;

/// `config.json` of a RoBERTa classifier.
#[derive(Debug, Deserialize)]
pub(super) struct RobertaConfig {
    #[serde(flatten)]
    encoder: Encoder,
}

impl RobertaConfig {
    /// The row of the position table that belongs to position 0; the padding token is 1 where nothing is
    /// said.
    fn first_position(&self) -> usize {
        self.encoder.pad_token_id.unwrap_or(1).saturating_add(1)
    }
}

impl Family for RobertaConfig {
    fn sizes(&self) -> Sizes {
        self.encoder.sizes(self.first_position())
    }

    fn check(&self) -> Result<()> {
        let first = self.first_position();
        require(first < 1 << 24, "a pad_token_id inside the vocabulary", first.to_string())?;
        self.encoder.check()
    }

    fn wire(&self, plan: &mut Plan) -> Wiring {
        self.encoder.wire(plan, "roberta", self.first_position(), |plan, d, labels| {
            plan.encoder_head(("classifier.dense", Activation::Tanh), "classifier.out_proj", d, labels)
        })
    }
}
