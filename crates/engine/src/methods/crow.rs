//! CROW: Internal Consistency Regularization (Min et al., ICML 2025, arXiv 2411.12768): fine-tuning on clean rows while consecutive hidden
//! states are kept together under the worst small change of the embeddings. The loss, and what differs from the published code, is in
//! `train/consistency.rs`. Its rate is five times the usual one, so that fine-tuning alone at that rate stands beside it as a control.

use super::uncut::Uncut;
use super::{Method, Purified};
use crate::data::OwnRows;
use crate::error::Result;
use crate::lab::Lab;
use crate::spec::{ControlSpec, CrowRecipe};
use crate::suspect::Suspect;

/// The method with its complete recipe.
pub(super) struct Crow {
    pub recipe: CrowRecipe,
    pub controls: Vec<ControlSpec>,
}

impl Method for Crow {
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        let (name, heal) = ("crow".into(), &self.recipe.heal);
        Uncut { name, heal, controls: &self.controls, healed: "kept consistent", prepare: &Ok }
            .purify(suspect, own, lab)
    }
}
