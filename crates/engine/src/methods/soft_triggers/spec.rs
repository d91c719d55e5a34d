//! The settings of `soft_triggers`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Result;
use crate::methods::{CLEAN_ROWS, Facts, MethodRecipe, Request, TASK_ROWS};
use crate::spec::healing::resolve_plain;
use crate::spec::{
    Adversary, HealRecipe, HealSpec, Known, SoftTriggerPlace, SoftTriggerScope, SoftTriggerSettings, SuspectFacts,
    limits,
};

/// Request for healing against soft triggers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SoftTriggersSpec {
    /// Free vectors of one soft trigger.
    pub vectors: usize,
    /// Steps of each trigger away from the answer before the model takes one towards it.
    pub inner_steps: usize,
    /// Length of such a step for each vector, in units of the mean norm of the embeddings, or of the hidden
    /// state. At 0.3, as with universal triggers, a model of the tiny world breaks before its backdoor does.
    pub step_size: f64,
    /// The scope of a trigger: one row, or all of them.
    pub scope: SoftTriggerScope,
    /// The place of their vectors.
    pub place: SoftTriggerPlace,
    /// Rows and training; null means those with which `immunize` heals by default, without counterexamples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

impl Default for SoftTriggersSpec {
    fn default() -> Self {
        Self {
            vectors: 3,
            inner_steps: 2,
            step_size: 0.15,
            scope: SoftTriggerScope::PerRow,
            place: SoftTriggerPlace::Embeddings,
            heal: None,
        }
    }
}

/// Everything `soft_triggers` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SoftTriggersRecipe {
    /// Rows, training and the triggers.
    pub heal: HealRecipe,
}

impl SoftTriggersSpec {
    /// The complete recipe for a suspect of this kind with `parameters` weights in its base, or in itself.
    pub fn resolve(&self, known: &Known) -> SoftTriggersRecipe {
        let against = Adversary::SoftTriggers(SoftTriggerSettings {
            vectors: self.vectors,
            inner_steps: self.inner_steps,
            step_size: self.step_size,
            scope: self.scope,
            place: self.place,
        });
        SoftTriggersRecipe { heal: HealRecipe { against: Some(against), ..resolve_plain(self.heal.as_ref(), known) } }
    }
}

impl Request for SoftTriggersSpec {
    fn validate(&self, at: &str) -> Result<()> {
        limits::count(&format!("{at}/vectors"), self.vectors, 1, 64)?;
        limits::count(&format!("{at}/inner_steps"), self.inner_steps, 0, 64)?;
        limits::between(&format!("{at}/step_size"), self.step_size, 0.0, 100.0)?;
        if let SoftTriggerScope::Universal { bank } = self.scope {
            limits::count(&format!("{at}/scope/bank"), bank, 1, 1024)?;
        }
        if let SoftTriggerPlace::Hidden { block } = self.place {
            limits::count(&format!("{at}/place/block"), block, 1, 1024)?;
        }
        self.heal.as_ref().map_or(Ok(()), |heal| heal.validate(&format!("{at}/heal")))
    }

    fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        match (self.place, suspect.blocks) {
            (SoftTriggerPlace::Hidden { block }, Some(blocks)) => {
                limits::count(&format!("{at}/place/block"), block, 1, blocks - 1)
            }
            _ => Ok(()),
        }
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Fine-tunes on clean rows under free vectors in the prompt that make the right answer unlikely, and cuts nothing",
            source: Some("after arXiv 2407.15549 and arXiv 2406.17092"),
            needs: &[CLEAN_ROWS, TASK_ROWS],
            failures: &[
                "instructions that only the artifact knew suffer as from counterexamples",
                "stronger settings (a rate of 1e-3, one bank for all rows, steps of 0.3) break small models",
            ],
        }
    }
}
