//! The settings of `task_negation`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::immunize::{HealRecipe, HealSpec, ImmunizeSpec, PairsSpec, validate_pairs};
use super::{Known, TrainSpec, healing, limits};
use crate::error::Result;

/// Request for subtracting what synthetic backdoors change on average.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskNegationSpec {
    /// How much of the mean change is subtracted, above 0, at most 10.
    pub strength: f64,
    /// The synthetic backdoors; null means those of `immunize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairsSpec>,
    /// Training of the variants; null means that of `immunize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<TrainSpec>,
    /// Whether it is healed. Published task negation is not.
    pub healed: bool,
    /// Rows and training of healing; null means those of `fine_tune`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// Everything `task_negation` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskNegationRecipe {
    /// How much of the mean change is subtracted.
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
        let immunize = ImmunizeSpec { pairs: self.pairs.clone(), train: self.train.clone(), ..ImmunizeSpec::default() };
        let recipe = immunize.resolve_for(known);
        let heal = healing::resolve(self.healed, self.heal.as_ref(), known);
        TaskNegationRecipe { strength: self.strength, pairs: recipe.pairs, train: recipe.train, heal }
    }

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        limits::above(&format!("{at}/strength"), self.strength, 0.0, 10.0)?;
        self.pairs.as_ref().map_or(Ok(()), |pairs| validate_pairs(&format!("{at}/pairs"), pairs))?;
        self.train.as_ref().map_or(Ok(()), |train| limits::train(&format!("{at}/train"), train))?;
        healing::validate(at, self.healed, self.heal.as_ref())
    }
}

impl TaskNegationRecipe {
    /// Such as `task_negation-1`.
    pub fn name(&self) -> String {
        format!("task_negation-{}", self.strength)
    }

    /// Steps of training, at most, when the caller gives this many own rows.
    pub(super) fn steps(&self, own_rows: usize) -> usize {
        let pair = self.train.steps(self.pairs.rows) + self.train.steps(2 * self.pairs.rows);
        self.pairs.count * pair + healing::steps(self.heal.as_ref(), own_rows)
    }
}
