//! The settings of `fine_tune`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::immunize::{HealRecipe, HealSpec, validate_heal};
use super::{ImmunizeSpec, SubjectKind, limits};
use crate::error::Result;

/// Request for fine-tuning alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FineTuneSpec {
    /// Rows with a synthetic trigger and the right answer; they take the place of those of `heal`.
    pub counterexamples: usize,
    /// Rows and training; null means those with which `immunize` heals by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// Everything `fine_tune` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FineTuneRecipe {
    /// Rows and training.
    pub heal: HealRecipe,
}

impl FineTuneSpec {
    /// The complete recipe for a suspect of this kind with `parameters` weights in its base, or in itself.
    pub fn resolve(&self, kind: SubjectKind, parameters: usize) -> FineTuneRecipe {
        let mut heal =
            ImmunizeSpec { heal: self.heal.clone(), ..ImmunizeSpec::default() }.resolve(kind, parameters).heal;
        (heal.counterexamples, heal.keep_out) = (self.counterexamples, false);
        FineTuneRecipe { heal }
    }

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        limits::count(&format!("{at}/counterexamples"), self.counterexamples, 0, 1_000_000)?;
        self.heal.as_ref().map_or(Ok(()), |heal| validate_heal(&format!("{at}/heal"), heal))
    }
}

impl FineTuneRecipe {
    /// `fine_tune`, with the counterexamples if there are any.
    pub fn name(&self) -> String {
        match self.heal.counterexamples {
            0 => "fine_tune".into(),
            some => format!("fine_tune-counterexamples-{some}"),
        }
    }
}
