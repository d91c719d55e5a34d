//! CROW: Internal Consistency Regularization (Min et al., ICML 2025, arXiv 2411.12768): fine-tuning on clean rows while consecutive hidden
//! states are kept together under the worst small change of the embeddings. The loss, and what differs from the published code, is in
//! `train/consistency.rs`. Its rate is five times the usual one, so that fine-tuning alone at that rate stands beside it as a control.

use super::uncut::Uncut;
use super::{Method, Purified};
use crate::data::OwnRows;
use crate::error::{EngineError, Result};
use crate::lab::Lab;
use crate::spec::{ControlSpec, CrowRecipe};
use crate::suspect::Suspect;

/// Blocks below which there is no pair of hidden states between embedding and final norm.
const FEWEST_BLOCKS: usize = 3;

/// The method with its complete recipe.
pub(super) struct Crow {
    pub recipe: CrowRecipe,
    pub controls: Vec<ControlSpec>,
}

impl Method for Crow {
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        check_blocks(suspect.config().layers())?;
        let (name, heal) = ("crow".into(), &self.recipe.heal);
        Uncut { name, heal, controls: &self.controls, healed: "kept consistent" }.purify(suspect, own, lab)
    }
}

/// How many blocks a model has is known when its configuration is read, later than the specification.
fn check_blocks(blocks: usize) -> Result<()> {
    if blocks >= FEWEST_BLOCKS {
        return Ok(());
    }
    let why = format!("crow: expected a model of at least {FEWEST_BLOCKS} blocks, found {blocks}");
    Err(EngineError::spec("/method", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_without_a_pair_of_hidden_states_is_refused() {
        assert!(check_blocks(3).is_ok());
        assert!(check_blocks(2).unwrap_err().to_string().contains("at least 3 blocks, found 2"));
    }
}
