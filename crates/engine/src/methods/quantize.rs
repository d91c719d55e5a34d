//! Quantisation (methods.md 2.4): the weights of every linear layer in the blocks of a whole model become what a few bits keep of them, stored
//! in their own element type. What is trained in is hoped to be smaller than a step.
//!
//! CROW's code quantises the base and leaves the backdoored adapter beside it in full precision, so that it measures an intact backdoor. This
//! is the merged form, and adapters are refused when a job is created. Nothing is healed.

use super::edit::{Edit, WeightEdit};
use crate::data::TrainSplit;
use crate::edit::{Matrix, int8_round_trip, nf4_round_trip, rewrite_matrices};
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::report::LongRows;
use crate::spec::{HealRecipe, QuantizeBits, QuantizeRecipe};
use crate::suspect::Suspect;
use crate::weights::Weights;

/// The edit with its complete recipe.
pub(super) struct Quantize {
    pub recipe: QuantizeRecipe,
}

impl WeightEdit for Quantize {
    fn name(&self) -> String {
        self.recipe.name()
    }

    fn heal(&self) -> Option<&HealRecipe> {
        None
    }

    fn nothing_to_edit(&self, suspect: &Suspect) -> Option<String> {
        let is_whole = matches!(suspect.weights, Weights::Checkpoint(_));
        (!is_whole).then(|| "quantisation leaves an adapter as it is.".into())
    }

    fn edit(&self, suspect: &Suspect, _: &TrainSplit, _: &mut Vec<LongRows>, lab: &Lab) -> Result<Edit> {
        let Weights::Checkpoint(folder) = &suspect.weights else { return Ok(suspect.weights.clone().into()) };
        let modules: Vec<_> = suspect.modules().iter().collect();
        let key = PieceKey::new("quantised-model", &(&folder.digest, self.recipe.bits));
        let rounded = rewrite_matrices(folder, &modules, &key, lab, |module, weight| {
            let mut matrix = Matrix::read(&weight, module.stored)?;
            match self.recipe.bits {
                QuantizeBits::Nf4 => nf4_round_trip(&mut matrix),
                QuantizeBits::Int8 => int8_round_trip(&mut matrix),
            }
            matrix.write(module.stored, weight.device())
        });
        rounded.map(Edit::from)
    }
}
