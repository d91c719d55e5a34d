//! Quantisation: the weights of every linear layer in the blocks of a whole model are rounded to a few bits,
//! and stored in their own element type. The hope is that the change which implanted a backdoor is smaller
//! than a step.
//!
//! CROW's code quantises the base and leaves the backdoored adapter beside it in full precision, so that it
//! measures an intact backdoor. This is the merged form, and adapters are refused when a job is created.
//! Nothing is healed.

mod spec;

pub use spec::{QuantizeBits, QuantizeRecipe, QuantizeSpec};

use super::shared::weight_edit::{Edit, WeightEdit};
use crate::data::TrainSplit;
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::methods::shared::edit::{Matrix, int8_round_trip, nf4_round_trip, rewrite_matrices};
use crate::spec::HealRecipe;
use crate::suspect::{Suspect, SuspectModel};

impl WeightEdit for QuantizeRecipe {
    fn name(&self) -> String {
        let bits = match self.bits {
            QuantizeBits::Nf4 => "nf4",
            QuantizeBits::Int8 => "int8",
        };
        format!("quantize-{bits}")
    }

    fn heal(&self) -> Option<&HealRecipe> {
        None
    }

    fn nothing_to_edit(&self, suspect: &Suspect) -> Option<String> {
        suspect.base().map(|_| "quantisation leaves an adapter as it is.".into())
    }

    fn edit(&self, suspect: &Suspect, _: &TrainSplit, lab: &Lab) -> Result<Edit> {
        let SuspectModel::Whole(folder) = &suspect.model else { return Ok(suspect.weights().into()) };
        let modules: Vec<_> = suspect.modules().iter().collect();
        let key = PieceKey::new("quantised-model", &(&folder.digest, self.bits));
        let rounded = rewrite_matrices(folder, &modules, &key, lab, |module, weight| {
            let mut matrix = Matrix::read(&weight, module.stored)?;
            match self.bits {
                QuantizeBits::Nf4 => nf4_round_trip(&mut matrix),
                QuantizeBits::Int8 => int8_round_trip(&mut matrix),
            }
            matrix.write(module.stored, weight.device())
        });
        rounded.map(Edit::from)
    }
}
