//! CROW: Internal Consistency Regularization (Min et al., ICML 2025, arXiv 2411.12768): fine-tuning on clean
//! rows while consecutive hidden states are kept together under the worst small change of the embeddings. The
//! loss, and its differences from the published code, are in `train/consistency.rs`. Its rate is five times
//! the usual one, so that fine-tuning alone at that rate stands beside it as a control.

mod spec;

pub use spec::{CrowRecipe, CrowSpec};

use super::shared::fine_tune_only::FineTuneOnly;
use super::{Method, Purified};
use crate::data::TaskRows;
use crate::error::Result;
use crate::lab::Lab;
use crate::spec::{ControlSpec, HealRecipe};
use crate::suspect::Suspect;

impl Method for CrowRecipe {
    fn name(&self) -> String {
        "crow".into()
    }

    fn heal(&self) -> Option<&HealRecipe> {
        Some(&self.heal)
    }

    fn purify(&self, suspect: &Suspect, task: &TaskRows, controls: &[ControlSpec], lab: &Lab) -> Result<Purified> {
        FineTuneOnly { name: self.name(), heal: &self.heal, healed: "kept consistent", prepare: &Ok }
            .purify(suspect, task, controls, lab)
    }
}
