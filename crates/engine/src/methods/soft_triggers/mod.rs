//! Healing against soft triggers (ours; after latent adversarial training, arXiv 2407.15549, and BEEAR, arXiv
//! 2406.17092): free vectors in the prompt are moved until the right answer is unlikely, and the model learns
//! to answer all the same. No backdoor is imitated and nothing is cut. Differences from the papers: the
//! vectors stand in the embeddings, in prompts as a trigger would, each row has its own, and nobody names the
//! behaviour that is unwanted. The triggers themselves are in `train/soft_triggers.rs`.

mod spec;

pub use spec::{SoftTriggersRecipe, SoftTriggersSpec};

use super::shared::fine_tune_only::FineTuneOnly;
use super::{Method, Purified};
use crate::data::TaskRows;
use crate::error::Result;
use crate::lab::Lab;
use crate::spec::{ControlSpec, HealRecipe};
use crate::suspect::Suspect;

impl Method for SoftTriggersRecipe {
    fn name(&self) -> String {
        "soft_triggers".into()
    }

    fn heal(&self) -> Option<&HealRecipe> {
        Some(&self.heal)
    }

    fn purify(&self, suspect: &Suspect, task: &TaskRows, controls: &[ControlSpec], lab: &Lab) -> Result<Purified> {
        FineTuneOnly { name: self.name(), heal: &self.heal, healed: "healed against soft triggers", prepare: &Ok }
            .purify(suspect, task, controls, lab)
    }
}
