//! The settings of `wanda`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::immunize::{HealRecipe, HealSpec};
use super::{Known, healing, limits};
use crate::error::Result;

/// Request for pruning weights by their size times that of what they read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WandaSpec {
    /// Share of each output row that becomes zero.
    pub ratio: f64,
    /// Clean training rows whose activations decide; they do not heal.
    pub calibration_rows: usize,
    /// Whether it is healed. Published pruning is not.
    pub healed: bool,
    /// Rows and training of healing; null means those of `fine_tune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// Everything `wanda` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WandaRecipe {
    /// Share of each output row that becomes zero.
    pub ratio: f64,
    /// Clean training rows whose activations decide.
    pub calibration_rows: usize,
    /// Healing; null where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealRecipe>,
}

/// As many rows as Wanda and its users take sequences of C4.
pub(super) const CALIBRATION_ROWS: usize = 128;

impl Default for WandaSpec {
    fn default() -> Self {
        Self { ratio: 0.35, calibration_rows: CALIBRATION_ROWS, healed: true, heal: None }
    }
}

impl WandaSpec {
    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> WandaRecipe {
        WandaRecipe {
            ratio: self.ratio,
            calibration_rows: self.calibration_rows,
            heal: healing::resolve(self.healed, self.heal.as_ref(), known),
        }
    }

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        limits::above(&format!("{at}/ratio"), self.ratio, 0.0, 1.0)?;
        limits::count(&format!("{at}/calibration_rows"), self.calibration_rows, 1, 100_000)?;
        healing::validate(at, self.healed, self.heal.as_ref())
    }
}

impl WandaRecipe {
    /// Such as `wanda-0.35`.
    pub fn name(&self) -> String {
        format!("wanda-{}", self.ratio)
    }
}
