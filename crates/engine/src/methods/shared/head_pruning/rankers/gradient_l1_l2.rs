//! (iii) Gradients behind a penalised fine-tuning.

use antigen_models::Model;
use serde::{Deserialize, Serialize};

use super::gradient::{GradientForm, gradient_scores};
use crate::error::Result;
use crate::lab::Lab;
use crate::methods::shared::head_pruning::removal::attention_modules;
use crate::methods::shared::head_pruning::{Examined, HeadGrid, HeadRanker, Ranking};
use crate::train::Penalty;

/// The strategy's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GradientL1L2Spec {
    /// Factor of the sum of magnitudes.
    pub l1: f64,
    /// Factor of the sum of norms, which are not squared.
    pub l2: f64,
    /// The form of the gradient.
    pub form: GradientForm,
}

impl Default for GradientL1L2Spec {
    fn default() -> Self {
        Self { l1: 1e-4, l2: 1e-4, form: GradientForm::default() }
    }
}

pub(in crate::methods::shared::head_pruning) struct GradientL1L2Ranker {
    pub spec: GradientL1L2Spec,
    pub as_released: bool,
}

impl HeadRanker for GradientL1L2Ranker {
    /// On the query, key, value and output matrices of the attention; as released, on all that is called
    /// attention and weight, which takes in the scale of the norm behind it.
    fn penalty(&self, model: &Model) -> Result<Option<Penalty>> {
        let mut weights = Vec::new();
        for layer in 0..HeadGrid::of(model).layers {
            weights.extend(attention_modules(model, layer).map(|module| model.weight_id(module)));
        }
        if self.as_released {
            let named = |name: &str| name.contains("attention") && name.contains("weight");
            weights = model.params().iter().filter(|(_, name, _)| named(name)).map(|(id, ..)| id).collect();
        }
        Ok(Some(Penalty { weights, l1: self.spec.l1, l2: self.spec.l2 }))
    }

    fn rank(&self, examined: &mut Examined<'_>, lab: &Lab) -> Result<Ranking> {
        let scores = gradient_scores(examined.model, examined.task, self.spec.form, self.as_released, lab)?;
        Ok(Ranking::by_rule(scores))
    }
}
