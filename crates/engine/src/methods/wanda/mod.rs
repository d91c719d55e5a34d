//! Wanda (arXiv 2306.11695): in every output row of every linear layer in the blocks, the weights become zero
//! that are small on inputs that are small. Blocks are pruned in their order, and each reads the output of
//! the pruned ones before it.
//!
//! A whole model gets exactly that, on clean training rows instead of C4. An adapter's two factors are linear
//! layers as well, A on what its layer reads and B on the output of A, and are pruned like any other over the
//! base as it is; the published code merges the adapter first, and the result is no adapter. Healing, which
//! is no part of Wanda, is on unless the recipe says otherwise; nothing keeps pruned weights from growing
//! back in it.

mod spec;

pub use spec::{WandaRecipe, WandaSpec};

use antigen_models::{LoraFactors, Stored, Tensor};

use super::shared::read_rows::ReadRows;
use super::shared::weight_edit::{Edit, WeightEdit};
use crate::data::TrainSplit;
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::methods::shared::edit::{Matrix, Reads, edit_calibrated, prune_rows, rewrite_calibrated};
use crate::spec::HealRecipe;
use crate::suspect::{Suspect, SuspectModel};

impl WeightEdit for WandaRecipe {
    fn name(&self) -> String {
        format!("wanda-{}", self.ratio)
    }

    fn heal(&self) -> Option<&HealRecipe> {
        self.heal.as_ref()
    }

    fn rows(&self) -> (usize, usize) {
        (1, self.calibration_rows)
    }

    fn edit(&self, suspect: &Suspect, rows: &TrainSplit, lab: &Lab) -> Result<Edit> {
        let calibration = ReadRows::calibration(suspect, rows, lab)?;
        let (ratio, examples) = (self.ratio, &calibration.examples);
        let digest = suspect.weights().digest()?;
        let inputs = (suspect.key(), digest, ratio, &calibration.rows_sha256, suspect.formats(), lab.seed);
        let key = PieceKey::new("wanda", &inputs);
        let pruned = match &suspect.model {
            SuspectModel::Whole(folder) => {
                rewrite_calibrated(suspect, folder, &key, examples, lab, |_, matrix, mean_squares| {
                    prune_rows(matrix, mean_squares, ratio);
                })
            }
            SuspectModel::Adapter { base, adapter } => {
                edit_calibrated(base, adapter, &key, examples, lab, |factors, reads| {
                    prune_factors(factors, reads, ratio)
                })
            }
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
