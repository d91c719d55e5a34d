//! Mixing with the base, after Fine-mixing (arXiv 2210.09545): a fraction of the suspect's update is kept,
//! and the mixture is fine-tuned on clean rows.
//!
//! An adapter's update is scaled down, by way of its B, which puts the model on the straight line between its
//! base and itself. Fine-mixing takes single weights by lot from one model or the other instead, which would
//! not leave an adapter; merging models moves along the line (arXiv 2402.19334). Whole models are refused
//! when a job is created: the base that it names need not be the one that they grew from.

mod spec;

pub use spec::{MergeWithBaseRecipe, MergeWithBaseSpec};

use super::shared::weight_edit::{Edit, WeightEdit};
use crate::data::TrainSplit;
use crate::error::Result;
use crate::lab::Lab;
use crate::spec::HealRecipe;
use crate::suspect::weights::Weights;
use crate::suspect::{Suspect, SuspectModel};

impl WeightEdit for MergeWithBaseRecipe {
    fn name(&self) -> String {
        format!("merge_with_base-{}", self.keep_fraction)
    }

    fn heal(&self) -> Option<&HealRecipe> {
        self.heal.as_ref()
    }

    fn nothing_to_edit(&self, suspect: &Suspect) -> Option<String> {
        suspect.base().is_none().then(|| "there is no adapter to mix with its base.".into())
    }

    fn edit(&self, suspect: &Suspect, _: &TrainSplit, _: &Lab) -> Result<Edit> {
        let SuspectModel::Adapter { adapter, .. } = &suspect.model else { return Ok(suspect.weights().into()) };
        let mut mixed = adapter.clone();
        for factors in mixed.factors.values_mut() {
            factors.b = factors.b.affine(self.keep_fraction, 0.0)?;
        }
        Ok(Weights::Adapter(mixed).into())
    }
}
