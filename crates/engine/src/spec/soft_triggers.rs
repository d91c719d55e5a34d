//! The settings of `soft_triggers`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::immunize::{HealRecipe, HealSpec, ImmunizeSpec, validate_heal};
use super::{Adversary, SoftTriggerPlace, SoftTriggerScope, SoftTriggerSettings, SubjectKind, SuspectFacts, limits};
use crate::error::Result;

/// Request for healing against soft triggers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SoftTriggersSpec {
    /// Free vectors of one soft trigger.
    pub vectors: usize,
    /// Steps of each trigger away from the answer before the model takes one towards it.
    pub inner_steps: usize,
    /// Length of such a step for each vector, in units of the mean norm of the embeddings, or of the hidden state. At 0.3, as with universal
    /// triggers, a model of the tiny world breaks before its backdoor does.
    pub step_size: f64,
    /// Whose triggers they are.
    pub scope: SoftTriggerScope,
    /// Where their vectors are.
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
    pub fn resolve(&self, kind: SubjectKind, parameters: usize) -> SoftTriggersRecipe {
        let heal = ImmunizeSpec { heal: self.heal.clone(), ..ImmunizeSpec::default() }.resolve(kind, parameters).heal;
        let counterexamples = self.heal.as_ref().map_or(0, |heal| heal.counterexamples);
        let against = Adversary::SoftTriggers(SoftTriggerSettings {
            vectors: self.vectors,
            inner_steps: self.inner_steps,
            step_size: self.step_size,
            scope: self.scope,
            place: self.place,
        });
        SoftTriggersRecipe { heal: HealRecipe { counterexamples, keep_out: false, against: Some(against), ..heal } }
    }

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        limits::count(&format!("{at}/vectors"), self.vectors, 1, 64)?;
        limits::count(&format!("{at}/inner_steps"), self.inner_steps, 0, 64)?;
        limits::between(&format!("{at}/step_size"), self.step_size, 0.0, 100.0)?;
        if let SoftTriggerScope::Universal { bank } = self.scope {
            limits::count(&format!("{at}/scope/bank"), bank, 1, 1024)?;
        }
        if let SoftTriggerPlace::Hidden { block } = self.place {
            limits::count(&format!("{at}/place/block"), block, 1, 1024)?;
        }
        self.heal.as_ref().map_or(Ok(()), |heal| validate_heal(&format!("{at}/heal"), heal))
    }

    pub(super) fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        match (self.place, suspect.blocks) {
            (SoftTriggerPlace::Hidden { block }, Some(blocks)) => {
                limits::count(&format!("{at}/place/block"), block, 1, blocks - 1)
            }
            _ => Ok(()),
        }
    }
}
