//! The settings of `fine_tune`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Result;
use crate::methods::{CLEAN_ROWS, Facts, MethodRecipe, Request, TASK_ROWS};
use crate::spec::{HealRecipe, HealSpec, Known, SubjectKind, limits};

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
        let asked = self.heal.clone().unwrap_or_else(|| HealSpec::default_for(kind));
        let heal = asked.resolve(kind, parameters);
        FineTuneRecipe { heal: HealRecipe { counterexamples: self.counterexamples, keep_out: false, ..heal } }
    }
}

impl Request for FineTuneSpec {
    fn validate(&self, at: &str) -> Result<()> {
        limits::count(&format!("{at}/counterexamples"), self.counterexamples, 0, 1_000_000)?;
        self.heal.as_ref().map_or(Ok(()), |heal| heal.validate(&format!("{at}/heal")))
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known.kind, known.parameters).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Fine-tunes on clean rows, with counterexamples where they are asked for, and cuts nothing",
            source: None,
            needs: &[CLEAN_ROWS, TASK_ROWS],
            failures: &[
                "backdoors that were trained for long: after it they fire on up to all of their prompts",
                "counterexamples cost instructions that only the artifact knew",
            ],
        }
    }
}
