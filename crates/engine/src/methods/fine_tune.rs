//! Fine-tuning on clean rows, with counterexamples where they are asked for (methods.md 2.1): nothing is cut. The weakest method, and
//! on weakly implanted backdoors enough.

use super::uncut::Uncut;
use super::{Method, Purified};
use crate::data::OwnRows;
use crate::error::Result;
use crate::lab::Lab;
use crate::spec::{ControlSpec, FineTuneRecipe};
use crate::suspect::Suspect;

/// The method with its complete recipe.
pub(super) struct FineTune {
    pub recipe: FineTuneRecipe,
    pub controls: Vec<ControlSpec>,
}

impl Method for FineTune {
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        let (name, heal) = (self.recipe.name(), &self.recipe.heal);
        Uncut { name, heal, controls: &self.controls, healed: "fine-tuned", prepare: &Ok }.purify(suspect, own, lab)
    }
}
