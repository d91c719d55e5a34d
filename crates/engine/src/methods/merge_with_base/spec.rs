//! The settings of `merge_with_base`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{EngineError, Result};
use crate::methods::{CLEAN_ROWS, Facts, MethodRecipe, Request, TASK_ROWS};
use crate::spec::healing::{resolve_optional, validate_optional};
use crate::spec::{HealRecipe, HealSpec, Known, SubjectKind, SuspectFacts, limits};

/// Request for mixing an adapter's model with its base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MergeWithBaseSpec {
    /// Fraction of the adapter's update that is kept, above 0, below 1.
    pub keep_fraction: f64,
    /// True to heal the model afterwards, as published.
    pub healed: bool,
    /// Rows and training of healing; null means those of `fine_tune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// Everything `merge_with_base` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MergeWithBaseRecipe {
    /// Fraction of the adapter's update that is kept.
    pub keep_fraction: f64,
    /// Healing; null where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealRecipe>,
}

impl Default for MergeWithBaseSpec {
    fn default() -> Self {
        Self { keep_fraction: 0.5, healed: true, heal: None }
    }
}

impl MergeWithBaseSpec {
    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> MergeWithBaseRecipe {
        let heal = resolve_optional(self.healed, self.heal.as_ref(), known);
        MergeWithBaseRecipe { keep_fraction: self.keep_fraction, heal }
    }
}

impl Request for MergeWithBaseSpec {
    fn validate(&self, at: &str) -> Result<()> {
        let field = format!("{at}/keep_fraction");
        limits::above(&field, self.keep_fraction, 0.0, 1.0)?;
        if self.keep_fraction == 1.0 {
            return Err(EngineError::spec(field, "expected less than 1, because 1 mixes nothing; found 1"));
        }
        validate_optional(at, self.healed, self.heal.as_ref())
    }

    fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        match suspect.kind {
            SubjectKind::Adapter => Ok(()),
            SubjectKind::Checkpoint => Err(EngineError::spec(
                at,
                "expected an adapter, found a whole model: the base that a job names need not be the one it grew from",
            )),
        }
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Scales an adapter's update down, which mixes the model with its base, and fine-tunes; whole models are refused, because the \
                  base that a job names need not be the one they grew from",
            source: Some("arXiv 2210.09545"),
            needs: &["a base that is trusted", CLEAN_ROWS, TASK_ROWS],
            failures: &["the artifact's task skill shrinks with its backdoor"],
        }
    }
}
