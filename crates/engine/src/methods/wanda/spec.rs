//! The settings of `wanda`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Result;
use crate::methods::shared::read_rows::CALIBRATION_ROWS;
use crate::methods::{Facts, MethodRecipe, Request};
use crate::spec::healing::{resolve_optional, validate_optional};
use crate::spec::{HealRecipe, HealSpec, Known, limits};

/// Request for pruning weights by their size times that of their input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WandaSpec {
    /// Share of each output row that becomes zero.
    pub ratio: f64,
    /// Clean training rows whose activations decide; they do not heal.
    pub calibration_rows: usize,
    /// True to heal the model afterwards. Published pruning does not.
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
            heal: resolve_optional(self.healed, self.heal.as_ref(), known),
        }
    }
}

impl Request for WandaSpec {
    fn validate(&self, at: &str) -> Result<()> {
        limits::above(&format!("{at}/ratio"), self.ratio, 0.0, 1.0)?;
        limits::count(&format!("{at}/calibration_rows"), self.calibration_rows, 1, 100_000)?;
        validate_optional(at, self.healed, self.heal.as_ref())
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Zeroes in every output row the weights that are smallest by their size times that of what they read, block by block",
            source: Some("arXiv 2306.11695"),
            needs: &["clean rows to look at activations"],
            failures: &[
                "a compression method that was never meant to remove anything: it keeps what the model does, backdoors included",
            ],
        }
    }
}
