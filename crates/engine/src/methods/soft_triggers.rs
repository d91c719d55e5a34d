//! Healing against soft triggers (ours; after latent adversarial training, arXiv 2407.15549, and BEEAR, arXiv 2406.17092): free vectors in
//! the prompt are moved until the right answer is unlikely, and the model learns to answer all the same. No backdoor is imitated and
//! nothing is cut. What differs from the papers: the vectors stand in the embeddings, in prompts as a trigger would, each row has its
//! own, and nobody names the behaviour that is unwanted. The triggers themselves are in `train/soft_triggers.rs`.

use super::uncut::Uncut;
use super::{Method, Purified};
use crate::data::OwnRows;
use crate::error::Result;
use crate::lab::Lab;
use crate::spec::{ControlSpec, SoftTriggersRecipe};
use crate::suspect::Suspect;

/// The method with its complete recipe.
pub(super) struct SoftTriggers {
    pub recipe: SoftTriggersRecipe,
    pub controls: Vec<ControlSpec>,
}

impl Method for SoftTriggers {
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        let (name, heal) = ("soft_triggers".into(), &self.recipe.heal);
        let healed = "healed against soft triggers";
        Uncut { name, heal, controls: &self.controls, healed, prepare: &Ok }.purify(suspect, own, lab)
    }
}
