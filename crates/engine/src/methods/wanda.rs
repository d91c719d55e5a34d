//! Wanda (arXiv 2306.11695; methods.md 2.3): in every output row of every linear layer in the blocks, the weights become zero that are small on
//! inputs that are small. Blocks are pruned in their order, and what a block reads comes out of the pruned ones before it.
//!
//! A whole model gets exactly that, on clean training rows instead of C4. An adapter's two factors are linear layers as well, A on what its
//! layer reads and B on what A makes of it, and are pruned like any other over the base as it is; the published code merges the adapter first,
//! and what comes back is no adapter. Healing, which is no part of Wanda, is on unless the recipe says otherwise; nothing keeps pruned weights
//! from growing back in it.

use antigen_models::families::Stored;
use antigen_models::{LoraFactors, Tensor};

use super::edit::{Edit, WeightEdit};
use super::read_rows::ReadRows;
use crate::data::TrainSplit;
use crate::edit::{Matrix, Reads, edit_calibrated, prune_rows, rewrite_calibrated};
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::report::LongRows;
use crate::spec::{HealRecipe, WandaRecipe};
use crate::suspect::Suspect;
use crate::weights::Weights;

/// The edit with its complete recipe.
pub(super) struct Wanda {
    pub recipe: WandaRecipe,
}

impl WeightEdit for Wanda {
    fn name(&self) -> String {
        self.recipe.name()
    }

    fn heal(&self) -> Option<&HealRecipe> {
        self.recipe.heal.as_ref()
    }

    fn rows(&self) -> (usize, usize) {
        (1, self.recipe.calibration_rows)
    }

    fn edit(&self, suspect: &Suspect, rows: &TrainSplit, long_rows: &mut Vec<LongRows>, lab: &Lab) -> Result<Edit> {
        let calibration = ReadRows::calibration(suspect, rows, long_rows, lab)?;
        let (ratio, examples) = (self.recipe.ratio, &calibration.examples);
        let digest = suspect.weights.digest()?;
        let inputs = (suspect.key(), digest, ratio, &calibration.rows_sha256, suspect.formats(), lab.seed);
        let key = PieceKey::new("wanda", &inputs);
        let pruned = match (&suspect.weights, suspect.base()) {
            (Weights::Checkpoint(folder), _) => {
                rewrite_calibrated(suspect, folder, &key, examples, lab, |_, matrix, mean_squares| {
                    prune_rows(matrix, mean_squares, ratio);
                })
            }
            (Weights::Adapter(adapter), Some(base)) => {
                edit_calibrated(base, adapter, &key, examples, lab, |factors, reads| {
                    prune_factors(factors, reads, ratio)
                })
            }
            _ => Ok(suspect.weights.clone()),
        };
        pruned.map(Edit::from)
    }
}

fn prune_factors(factors: &mut LoraFactors, reads: &Reads, ratio: f64) -> Result<()> {
    let prune = |factor: &Tensor, mean_squares: &[f64]| {
        let mut matrix = Matrix::read(factor, Stored::OutIn)?;
        prune_rows(&mut matrix, mean_squares, ratio);
        matrix.write(Stored::OutIn, factor.device())
    };
    factors.a = prune(&factors.a, &reads.input)?;
    factors.b = prune(&factors.b, &reads.reduced)?;
    Ok(())
}
