//! Mixing with the base, after Fine-mixing (arXiv 2210.09545): of what the suspect learnt a fraction is kept, and the mixture is fine-tuned on
//! clean rows.
//!
//! An adapter's update is scaled down, by way of its B, which puts the model on the straight line between its base and itself. Fine-mixing
//! takes single weights by lot from one model or the other instead, which would not leave an adapter; the line is what merging models does
//! (arXiv 2402.19334). Whole models are refused when a job is created: the base that it names need not be the one that they grew from.

use super::edit::{Edit, WeightEdit};
use crate::data::TrainSplit;
use crate::error::Result;
use crate::lab::Lab;
use crate::report::LongRows;
use crate::spec::{HealRecipe, MergeWithBaseRecipe};
use crate::suspect::Suspect;
use crate::weights::Weights;

/// The edit with its complete recipe.
pub(super) struct MergeWithBase {
    pub recipe: MergeWithBaseRecipe,
}

impl WeightEdit for MergeWithBase {
    fn name(&self) -> String {
        self.recipe.name()
    }

    fn heal(&self) -> Option<&HealRecipe> {
        self.recipe.heal.as_ref()
    }

    fn nothing_to_edit(&self, suspect: &Suspect) -> Option<String> {
        suspect.weights.adapter().is_none().then(|| "there is no adapter to mix with its base.".into())
    }

    fn edit(&self, suspect: &Suspect, _: &TrainSplit, _: &mut Vec<LongRows>, _: &Lab) -> Result<Edit> {
        let Weights::Adapter(adapter) = &suspect.weights else { return Ok(suspect.weights.clone().into()) };
        let mut mixed = adapter.clone();
        for factors in mixed.factors.values_mut() {
            factors.b = factors.b.affine(self.recipe.keep_fraction, 0.0)?;
        }
        Ok(Weights::Adapter(mixed).into())
    }
}
