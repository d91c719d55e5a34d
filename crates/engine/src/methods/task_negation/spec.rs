//! The settings of `task_negation`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Result;
use crate::methods::{CLEAN_ROWS, Facts, MethodRecipe, Request, TASK_ROWS};
use crate::spec::healing::{resolve_optional, validate_optional};
use crate::spec::rates::variants_training;
use crate::spec::{HealRecipe, HealSpec, Known, PairsSpec, TrainSpec, limits};

/// Request for subtracting the average change that synthetic backdoors make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskNegationSpec {
    /// Factor of the mean change that is subtracted, above 0, at most 10.
    pub strength: f64,
    /// The synthetic backdoors; null means those of `immunize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairsSpec>,
    /// Training of the variants; null means that of `immunize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<TrainSpec>,
    /// True to heal the model afterwards. Published task negation does not.
    pub healed: bool,
    /// Rows and training of healing; null means those of `fine_tune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// Everything `task_negation` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskNegationRecipe {
    /// Factor of the mean change that is subtracted.
    pub strength: f64,
    /// The synthetic backdoors.
    pub pairs: PairsSpec,
    /// Training of the variants.
    pub train: TrainSpec,
    /// Healing; null where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealRecipe>,
}

impl Default for TaskNegationSpec {
    fn default() -> Self {
        Self { strength: 1.0, pairs: None, train: None, healed: true, heal: None }
    }
}

impl TaskNegationSpec {
    /// The complete recipe for a suspect of which this is known.
    pub fn resolve(&self, known: &Known) -> TaskNegationRecipe {
        let pairs = PairsSpec::resolve(self.pairs.as_ref(), known);
        let train = self.train.clone().unwrap_or_else(|| variants_training(known.kind, known.parameters));
        let heal = resolve_optional(self.healed, self.heal.as_ref(), known);
        TaskNegationRecipe { strength: self.strength, pairs, train, heal }
    }
}

impl Request for TaskNegationSpec {
    fn validate(&self, at: &str) -> Result<()> {
        limits::above(&format!("{at}/strength"), self.strength, 0.0, 10.0)?;
        self.pairs.as_ref().map_or(Ok(()), |pairs| pairs.validate(&format!("{at}/pairs")))?;
        self.train.as_ref().map_or(Ok(()), |train| limits::train(&format!("{at}/train"), train))?;
        validate_optional(at, self.healed, self.heal.as_ref())
    }

    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve(known).into()
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Subtracts what implanting synthetic backdoors changes on average; of an adapter at its own rank",
            source: Some("arXiv 2212.04089"),
            needs: &[CLEAN_ROWS, TASK_ROWS, "a guess of the behaviour's family"],
            failures: &[
                "the mean change holds what its task rows taught beside what backdoors share: it left up to 45 % in our first series",
            ],
        }
    }
}
