//! Fine-pruning (arXiv 1805.12185, as arXiv 2603.13461 runs it; methods.md 2.3): neurons that clean rows leave dormant are cut, and the rest is
//! fine-tuned.
//!
//! Of a whole model a channel of an MLP matrix is as dormant as its Wanda scores add up to: over the row of gate and up, over the column of
//! down. Each matrix loses its own channels, and blocks are cut in their order, each by what comes out of the cut ones before it. Of an
//! adapter the paper, which takes activations to be out of reach there, cuts channels of the update **at random**, and so does this method: its
//! control of random channels would be itself. What is cut becomes zero, and nothing keeps it from growing back while it heals.

use super::controls::Start;
use super::edit::{Edit, WeightEdit};
use super::read_rows::ReadRows;
use crate::data::TrainSplit;
use crate::edit::{changed_mlp, cut_channels, dormant_channels, random_channels, rewrite_calibrated};
use crate::error::Result;
use crate::heal::Wounded;
use crate::lab::{Lab, PieceKey};
use crate::report::LongRows;
use crate::spec::{FinePruneRecipe, HealRecipe};
use crate::suspect::Suspect;
use crate::weights::{CheckpointFolder, Weights};

/// The edit with its complete recipe.
pub(super) struct FinePrune {
    pub recipe: FinePruneRecipe,
}

impl WeightEdit for FinePrune {
    fn name(&self) -> String {
        self.recipe.name()
    }

    fn heal(&self) -> Option<&HealRecipe> {
        self.recipe.heal.as_ref()
    }

    fn rows(&self) -> (usize, usize) {
        (1, self.recipe.calibration_rows)
    }

    fn nothing_to_edit(&self, suspect: &Suspect) -> Option<String> {
        changed_mlp(suspect).is_empty().then(|| "channels are cut from MLP matrices, and the adapter has none.".into())
    }

    fn edit(&self, suspect: &Suspect, rows: &TrainSplit, long_rows: &mut Vec<LongRows>, lab: &Lab) -> Result<Edit> {
        let cut = match &suspect.weights {
            Weights::Checkpoint(folder) => {
                self.cut_dormant(suspect, folder, &ReadRows::calibration(suspect, rows, long_rows, lab)?, lab)
            }
            _ => self.cut_at_random(suspect, "fine_prune/channels", lab),
        };
        cut.map(Edit::from)
    }

    fn random_channels(&self, suspect: &Suspect, _: &Edit, lab: &Lab) -> Result<Start> {
        if matches!(suspect.weights, Weights::Adapter(_)) {
            return Ok(Start::LeftOut("the method itself draws an adapter's channels at random"));
        }
        let cut = self.cut_at_random(suspect, "controls/random_channels", lab)?;
        Ok(Start::model("as many channels drawn at random instead of dormant ones, healed alike", Wounded::uncut(cut)))
    }
}

impl FinePrune {
    fn cut_at_random(&self, suspect: &Suspect, stream: &str, lab: &Lab) -> Result<Weights> {
        let drawn = random_channels(&changed_mlp(suspect), self.recipe.ratio, &mut lab.rng(stream));
        cut_channels(suspect, &drawn, lab)
    }

    fn cut_dormant(
        &self,
        suspect: &Suspect,
        folder: &CheckpointFolder,
        calibration: &ReadRows,
        lab: &Lab,
    ) -> Result<Weights> {
        let ratio = self.recipe.ratio;
        let inputs = (&folder.digest, ratio, &calibration.rows_sha256, suspect.formats(), lab.seed);
        let key = PieceKey::new("fine-pruned-model", &inputs);
        rewrite_calibrated(suspect, folder, &key, &calibration.examples, lab, |module, matrix, mean_squares| {
            if module.kind.is_mlp() {
                let dormant = dormant_channels(module, matrix, mean_squares, ratio);
                matrix.zero_channels(module, &dormant);
            }
        })
    }
}
