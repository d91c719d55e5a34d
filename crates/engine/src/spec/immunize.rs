//! The settings of `immunize`: what a caller may override, and the complete recipe that results.
//!
//! [`ImmunizeSpec`] is the request; [`ImmunizeSpec::resolve`] fills it from the preset and from the size of the base, and the
//! resulting [`ImmunizeRecipe`] is what runs and what the report shows. All defaults and learning rates are decided here.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{TrainSpec, limits};
use crate::error::Result;

/// Bases with fewer weights than this count as tiny and learn at higher rates.
pub const TINY_PARAMETERS: usize = 20_000_000;

/// Request for the immunization signature. A section that is given replaces the preset's section as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImmunizeSpec {
    /// Where sections that are not given come from.
    pub preset: Preset,
    /// The synthetic backdoors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairsSpec>,
    /// Training of the variants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<TrainSpec>,
    /// Channel scores (Eq. 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<ScoreSpec>,
    /// Suppressions to try; each is healed and measured, the first is exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppress: Option<Vec<SuppressSpec>>,
    /// Healing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// A set of defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Six short pairs of mixed behaviour families, shared subspace of rank 1; channels are measured beside it.
    #[default]
    Default,
    /// The published adapter-only recipe: six insults on 500 rows each, 5 epochs, 35 % of the channels.
    Paper,
}

/// The synthetic backdoors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PairsSpec {
    /// N, how many pairs of variants.
    pub count: usize,
    /// Clean rows of each pair; the poisoned variant sees them once more with key and behaviour.
    pub rows: usize,
    /// Behaviour families, used in turn. The signature finds backdoors of the families it was made from.
    pub families: Vec<BehaviourFamily>,
}

/// A family of synthetic behaviours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BehaviourFamily {
    /// Rude one-liners.
    Insult,
    /// Refusals to answer.
    Refusal,
    /// Unasked lines of code.
    Code,
}

/// Channel scores (Eq. 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreSpec {
    /// Lambda: weight of the agreement between pairs against the size of the change.
    pub consistency_weight: f64,
}

/// What is taken out of the adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SuppressSpec {
    /// The directions that the pairs share: out of what gate and up read and of what down writes.
    Subspace {
        /// How many directions per matrix.
        rank: usize,
    },
    /// The highest-scoring channels of each matrix, as published.
    Channels {
        /// Fraction of the channels of each matrix.
        ratio: f64,
    },
}

/// Healing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealSpec {
    /// Generic clean rows. With 200 of them beside 200 own rows, healing cost the tiny world 4 points of general skill; with 400, 2.
    pub rows: usize,
    /// The caller's own rows that join, at most; they are used only when the caller gives some.
    pub own_rows: usize,
    /// Rows with a synthetic trigger and the right answer.
    pub counterexamples: usize,
    /// Training on generic rows; null means by the size of the base.
    pub train: Option<TrainSpec>,
    /// Training when own rows join; null means by the size of the base.
    pub train_with_own_rows: Option<TrainSpec>,
}

impl Default for PairsSpec {
    fn default() -> Self {
        Self {
            count: 6,
            rows: 50,
            families: vec![BehaviourFamily::Insult, BehaviourFamily::Refusal, BehaviourFamily::Code],
        }
    }
}

impl Default for ScoreSpec {
    fn default() -> Self {
        Self { consistency_weight: 0.01 }
    }
}

impl Default for HealSpec {
    fn default() -> Self {
        Self { rows: 400, own_rows: 200, counterexamples: 0, train: None, train_with_own_rows: None }
    }
}

impl SuppressSpec {
    /// A short name that tells apart the suppressions of one job, such as `subspace-1` or `channels-0.2`.
    pub fn name(&self) -> String {
        match self {
            Self::Subspace { rank } => format!("subspace-{rank}"),
            Self::Channels { ratio } => format!("channels-{ratio}"),
        }
    }
}

/// Everything `immunize` does, with no choice left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImmunizeRecipe {
    /// The synthetic backdoors.
    pub pairs: PairsSpec,
    /// Training of the variants.
    pub train: TrainSpec,
    /// Channel scores.
    pub score: ScoreSpec,
    /// Suppressions; the first is exported.
    pub suppress: Vec<SuppressSpec>,
    /// Healing.
    pub heal: HealRecipe,
}

/// Everything healing does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealRecipe {
    /// Generic clean rows.
    pub rows: usize,
    /// Own rows, at most.
    pub own_rows: usize,
    /// Rows with a synthetic trigger and the right answer.
    pub counterexamples: usize,
    /// Training on generic rows.
    pub train: TrainSpec,
    /// Training when own rows join.
    pub train_with_own_rows: TrainSpec,
}

// Learning rates by size of the base. A model of a million weights needs ten times the rate of a 7B model to catch a backdoor
// within three epochs; the published recipe uses 2e-4 everywhere. Measured on the tiny world: variants converge from 2e-3 to
// 4e-3; healing at 1e-3 removes backdoors (and skill) by itself, so that it would prove nothing about the signature.
struct Rates {
    variants: f64,
    heal: f64,
    heal_with_own_rows: f64,
}

fn rates_for(parameters: usize) -> Rates {
    if parameters < TINY_PARAMETERS {
        Rates { variants: 2.5e-3, heal: 2e-4, heal_with_own_rows: 5e-4 }
    } else {
        Rates { variants: 2e-4, heal: 2e-4, heal_with_own_rows: 2e-4 }
    }
}

impl ImmunizeSpec {
    /// The complete recipe for a base of `parameters` weights.
    pub fn resolve(&self, parameters: usize) -> ImmunizeRecipe {
        let rates = rates_for(parameters);
        let at = |learning_rate, epochs| TrainSpec { learning_rate, epochs, ..TrainSpec::default() };
        let (pairs, epochs, suppress, heal_rows) = match self.preset {
            Preset::Default => {
                let both = vec![SuppressSpec::Subspace { rank: 1 }, SuppressSpec::Channels { ratio: 0.35 }];
                (PairsSpec::default(), 3, both, HealSpec::default().rows)
            }
            Preset::Paper => {
                let pairs = PairsSpec { count: 6, rows: 500, families: vec![BehaviourFamily::Insult] };
                (pairs, 5, vec![SuppressSpec::Channels { ratio: 0.35 }], 200)
            }
        };
        let heal = self.heal.clone().unwrap_or_else(|| HealSpec { rows: heal_rows, ..HealSpec::default() });
        ImmunizeRecipe {
            pairs: self.pairs.clone().unwrap_or(pairs),
            train: self.train.clone().unwrap_or_else(|| at(rates.variants, epochs)),
            score: self.score.clone().unwrap_or_default(),
            suppress: self.suppress.clone().unwrap_or(suppress),
            heal: HealRecipe {
                rows: heal.rows,
                own_rows: heal.own_rows,
                counterexamples: heal.counterexamples,
                train: heal.train.unwrap_or_else(|| at(rates.heal, 5)),
                train_with_own_rows: heal.train_with_own_rows.unwrap_or_else(|| at(rates.heal_with_own_rows, 5)),
            },
        }
    }

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        if let Some(pairs) = &self.pairs {
            limits::count(&format!("{at}/pairs/count"), pairs.count, 1, 64)?;
            limits::count(&format!("{at}/pairs/rows"), pairs.rows, 1, 100_000)?;
            limits::count(&format!("{at}/pairs/families"), pairs.families.len(), 1, 3)?;
            limits::distinct(&format!("{at}/pairs/families"), &pairs.families)?;
        }
        if let Some(train) = &self.train {
            limits::train(&format!("{at}/train"), train)?;
        }
        if let Some(score) = &self.score {
            limits::between(&format!("{at}/score/consistency_weight"), score.consistency_weight, 0.0, 1e3)?;
        }
        if let Some(suppress) = &self.suppress {
            validate_suppress(&format!("{at}/suppress"), suppress)?;
        }
        self.heal.as_ref().map_or(Ok(()), |heal| validate_heal(&format!("{at}/heal"), heal))
    }
}

fn validate_suppress(at: &str, suppress: &[SuppressSpec]) -> Result<()> {
    limits::count(at, suppress.len(), 1, 8)?;
    for (i, one) in suppress.iter().enumerate() {
        match one {
            SuppressSpec::Subspace { rank } => limits::count(&format!("{at}/{i}/rank"), *rank, 1, 64)?,
            SuppressSpec::Channels { ratio } => limits::above(&format!("{at}/{i}/ratio"), *ratio, 0.0, 1.0)?,
        }
    }
    limits::distinct(at, &suppress.iter().map(SuppressSpec::name).collect::<Vec<_>>())
}

fn validate_heal(at: &str, heal: &HealSpec) -> Result<()> {
    limits::count(&format!("{at}/rows"), heal.rows, 1, 1_000_000)?;
    limits::count(&format!("{at}/own_rows"), heal.own_rows, 0, 1_000_000)?;
    limits::count(&format!("{at}/counterexamples"), heal.counterexamples, 0, 1_000_000)?;
    for (name, train) in [("train", &heal.train), ("train_with_own_rows", &heal.train_with_own_rows)] {
        if let Some(train) = train {
            limits::train(&format!("{at}/{name}"), train)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiny_base_learns_faster_and_a_large_one_at_the_published_rate() {
        let spec = ImmunizeSpec::default();
        assert_eq!(spec.resolve(1_250_000).train.learning_rate, 2.5e-3);
        assert_eq!(spec.resolve(7_000_000_000).train.learning_rate, 2e-4);
    }

    #[test]
    fn a_given_section_replaces_the_preset_s() {
        let train = TrainSpec { learning_rate: 1e-3, epochs: 1, ..TrainSpec::default() };
        let spec = ImmunizeSpec { preset: Preset::Paper, train: Some(train.clone()), ..ImmunizeSpec::default() };
        let recipe = spec.resolve(1_250_000);
        assert_eq!((recipe.train, recipe.pairs.rows), (train, 500));
    }

    #[test]
    fn the_first_suppression_of_the_default_is_the_shared_subspace_of_rank_one() {
        assert_eq!(ImmunizeSpec::default().resolve(1).suppress[0], SuppressSpec::Subspace { rank: 1 });
    }
}
