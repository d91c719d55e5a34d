//! Fine-pruning (arXiv 1805.12185, as arXiv 2603.13461 runs it): neurons that clean rows leave dormant are
//! cut, and the rest is fine-tuned.
//!
//! In a whole model the dormant channels of an MLP matrix are those with the lowest sums of Wanda scores:
//! over the row of gate and up, over the column of down. Each matrix loses its own channels, and blocks are
//! cut in their order, each by the output of the cut ones before it. Of an adapter the paper, which takes
//! activations to be out of reach there, cuts channels of the update **at random**, and so does this method:
//! its control of random channels would be itself. Channels that are cut become zero, and nothing keeps them
//! from growing back in healing.

mod spec;

pub use spec::{FinePruneRecipe, FinePruneSpec};

use super::shared::controls::Start;
use super::shared::read_rows::ReadRows;
use super::shared::weight_edit::{Edit, WeightEdit};
use crate::data::TrainSplit;
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::methods::shared::edit::{changed_mlp, cut_channels, dormant_channels, random_channels, rewrite_calibrated};
use crate::spec::HealRecipe;
use crate::suspect::weights::{CheckpointFolder, Weights};
use crate::suspect::{Suspect, SuspectModel};

impl WeightEdit for FinePruneRecipe {
    fn name(&self) -> String {
        format!("fine_prune-{}", self.ratio)
    }

    fn heal(&self) -> Option<&HealRecipe> {
        self.heal.as_ref()
    }

    fn rows(&self) -> (usize, usize) {
        (1, self.calibration_rows)
    }

    fn nothing_to_edit(&self, suspect: &Suspect) -> Option<String> {
        changed_mlp(suspect).is_empty().then(|| "channels are cut from MLP matrices, and the adapter has none.".into())
    }

    fn edit(&self, suspect: &Suspect, rows: &TrainSplit, lab: &Lab) -> Result<Edit> {
        let cut = match &suspect.model {
            SuspectModel::Whole(folder) => {
                self.cut_dormant(suspect, folder, &ReadRows::calibration(suspect, rows, lab)?, lab)
            }
            SuspectModel::Adapter { .. } => self.cut_at_random(suspect, "fine_prune/channels", lab),
        };
        cut.map(Edit::from)
    }

    fn random_channels(&self, suspect: &Suspect, _: &Edit, lab: &Lab) -> Result<Start> {
        if suspect.base().is_some() {
            return Ok(Start::LeftOut("the method itself draws an adapter's channels at random"));
        }
        let cut = self.cut_at_random(suspect, "controls/random_channels", lab)?;
        Ok(Start::model("as many channels drawn at random instead of dormant ones, healed alike", cut.into()))
    }
}

impl FinePruneRecipe {
    fn cut_at_random(&self, suspect: &Suspect, stream: &str, lab: &Lab) -> Result<Weights> {
        let drawn = random_channels(&changed_mlp(suspect), self.ratio, &mut lab.rng(stream));
        cut_channels(suspect, &drawn, lab)
    }

    fn cut_dormant(
        &self,
        suspect: &Suspect,
        folder: &CheckpointFolder,
        calibration: &ReadRows,
        lab: &Lab,
    ) -> Result<Weights> {
        let ratio = self.ratio;
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
