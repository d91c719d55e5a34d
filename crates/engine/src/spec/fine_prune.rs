//! The settings of `fine_prune`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::immunize::{HealRecipe, HealSpec};
use super::wanda::CALIBRATION_ROWS;
use super::{Known, SubjectKind, healing, limits};
use crate::error::Result;

/// Request for cutting dormant neurons and fine-tuning the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FinePruneSpec {
    /// Share of each MLP matrix' channels; null means as published: 0.35 of an adapter's, 0.03 of a whole model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Clean training rows whose activations decide about a whole model's channels; an adapter's are drawn at random, as published.
    pub calibration_rows: usize,
    /// Whether it is healed, as published.
    pub healed: bool,
    /// Rows and training of healing; null means those of `fine_tune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// Everything `fine_prune` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FinePruneRecipe {
    /// Share of each MLP matrix' channels.
    pub ratio: f64,
    /// Clean training rows whose activations decide; none for an adapter.
    pub calibration_rows: usize,
    /// Healing; null where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealRecipe>,
}

impl Default for FinePruneSpec {
    fn default() -> Self {
        Self { ratio: None, calibration_rows: CALIBRATION_ROWS, healed: true, heal: None }
    }
}

impl FinePruneSpec {
    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> FinePruneRecipe {
        FinePruneRecipe {
            ratio: self.ratio.unwrap_or(known.kind.published_ratio()),
            calibration_rows: if known.kind == SubjectKind::Adapter { 0 } else { self.calibration_rows },
            heal: healing::resolve(self.healed, self.heal.as_ref(), known),
        }
    }

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        self.ratio.map_or(Ok(()), |ratio| limits::above(&format!("{at}/ratio"), ratio, 0.0, 1.0))?;
        limits::count(&format!("{at}/calibration_rows"), self.calibration_rows, 1, 100_000)?;
        healing::validate(at, self.healed, self.heal.as_ref())
    }
}

impl FinePruneRecipe {
    /// Such as `fine_prune-0.35`.
    pub fn name(&self) -> String {
        format!("fine_prune-{}", self.ratio)
    }
}
