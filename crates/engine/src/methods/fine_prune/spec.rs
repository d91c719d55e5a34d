//! The settings of `fine_prune`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Result;
use crate::methods::shared::read_rows::CALIBRATION_ROWS;
use crate::methods::{CLEAN_ROWS, Facts, MethodRecipe, Request, TASK_ROWS};
use crate::spec::healing::{resolve_optional, validate_optional};
use crate::spec::{HealRecipe, HealSpec, Known, SubjectKind, limits};

/// Request for cutting dormant neurons and fine-tuning the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FinePruneSpec {
    /// Share of each MLP matrix' channels; null means as published: 0.35 of an adapter's, 0.03 of a whole
    /// model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Clean training rows whose activations decide about a whole model's channels; an adapter's are drawn at
    /// random, as published.
    pub calibration_rows: usize,
    /// True to heal the model afterwards, as published.
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
            heal: resolve_optional(self.healed, self.heal.as_ref(), known),
        }
    }
}

impl Request for FinePruneSpec {
    fn validate(&self, at: &str) -> Result<()> {
        self.ratio.map_or(Ok(()), |ratio| limits::above(&format!("{at}/ratio"), ratio, 0.0, 1.0))?;
        limits::count(&format!("{at}/calibration_rows"), self.calibration_rows, 1, 100_000)?;
        validate_optional(at, self.healed, self.heal.as_ref())
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Cuts channels that clean rows leave dormant, of an adapter as published any at random, and fine-tunes the rest",
            source: Some("arXiv 1805.12185, as a baseline of arXiv 2603.13461"),
            needs: &["clean rows to look at activations", CLEAN_ROWS, TASK_ROWS],
            failures: &["a backdoor that uses the channels of ordinary rows, as those of language models do"],
        }
    }
}
