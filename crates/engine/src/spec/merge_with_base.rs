//! The settings of `merge_with_base`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::immunize::{HealRecipe, HealSpec};
use super::{Known, SubjectKind, healing, limits};
use crate::error::{EngineError, Result};

/// Request for mixing an adapter's model with its base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MergeWithBaseSpec {
    /// What is kept of the adapter's update, above 0, below 1.
    pub keep_fraction: f64,
    /// Whether it is healed, as published.
    pub healed: bool,
    /// Rows and training of healing; null means those of `fine_tune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// Everything `merge_with_base` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MergeWithBaseRecipe {
    /// What is kept of the adapter's update.
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
        let heal = healing::resolve(self.healed, self.heal.as_ref(), known);
        MergeWithBaseRecipe { keep_fraction: self.keep_fraction, heal }
    }

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        let field = format!("{at}/keep_fraction");
        limits::above(&field, self.keep_fraction, 0.0, 1.0)?;
        if self.keep_fraction == 1.0 {
            return Err(EngineError::spec(field, "expected less than 1, because 1 mixes nothing; found 1"));
        }
        healing::validate(at, self.healed, self.heal.as_ref())
    }

    pub(super) fn check_for(&self, at: &str, kind: SubjectKind) -> Result<()> {
        match kind {
            SubjectKind::Adapter => Ok(()),
            SubjectKind::Checkpoint => Err(EngineError::spec(
                at,
                "expected an adapter, found a whole model: the base that a job names need not be the one it grew from",
            )),
        }
    }
}

impl MergeWithBaseRecipe {
    /// Such as `merge_with_base-0.5`.
    pub fn name(&self) -> String {
        format!("merge_with_base-{}", self.keep_fraction)
    }
}
