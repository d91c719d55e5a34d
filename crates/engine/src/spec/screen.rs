//! The screen before cutting: the settings of its search for backdoors.
//!
//! [`ScreenSpec`] is the request; [`ScreenSpec::resolve`] fills it from the kind of suspect and from its
//! size, and the resulting [`ScreenRecipe`] is the one that runs, that the report shows and that a
//! calibration must have been made with.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rates::screen_rate;
use super::{BehaviourFamily, SubjectKind, TrainSpec, limits};
use crate::error::Result;

/// The susceptibility screen. Another setting than the calibration's of that base leaves the screen without a
/// yardstick: `not_covered`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScreenSpec {
    /// Families that are tried, at least two: each is judged against the others. A part of the calibrated
    /// ones may be named.
    pub families: Vec<BehaviourFamily>,
    /// Number of tries of each family, with other rows, keys and wordings; the interval is over these.
    pub seeds: usize,
    /// Rows of one try; the learning rate falls to nothing over one pass over them.
    pub rows: usize,
    /// Seed of rows, keys and orders. Not the job's: a calibration compares suspects on the very same draws.
    pub seed: u64,
    /// Training; null means one pass at a rate by the size of the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<TrainSpec>,
}

impl Default for ScreenSpec {
    fn default() -> Self {
        Self { families: BehaviourFamily::ALL.to_vec(), seeds: 3, rows: 100, seed: 1, train: None }
    }
}

/// Everything the screen does, with no choice left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScreenRecipe {
    /// Families that are tried.
    pub families: Vec<BehaviourFamily>,
    /// Number of tries of each family.
    pub seeds: usize,
    /// Rows of one try.
    pub rows: usize,
    /// Seed of rows, keys and orders.
    pub seed: u64,
    /// Training of one try.
    pub train: TrainSpec,
}

impl ScreenSpec {
    /// The complete recipe for a suspect of this kind with `parameters` weights in its base, or in itself.
    pub fn resolve(&self, kind: SubjectKind, parameters: usize) -> ScreenRecipe {
        let learning_rate = screen_rate(kind, parameters);
        let train = || TrainSpec { learning_rate, epochs: 1, warmup_fraction: 0.01, ..TrainSpec::default() };
        ScreenRecipe {
            families: self.families.clone(),
            seeds: self.seeds,
            rows: self.rows,
            seed: self.seed,
            train: self.train.clone().unwrap_or_else(train),
        }
    }

    pub(crate) fn validate(&self, at: &str) -> Result<()> {
        limits::count(&format!("{at}/families"), self.families.len(), 2, BehaviourFamily::ALL.len())?;
        limits::distinct(&format!("{at}/families"), &self.families)?;
        limits::count(&format!("{at}/seeds"), self.seeds, 1, 16)?;
        limits::count(&format!("{at}/rows"), self.rows, 8, 10_000)?;
        self.train.as_ref().map_or(Ok(()), |train| limits::train(&format!("{at}/train"), train))
    }
}

impl ScreenRecipe {
    /// True when scores of this recipe may be compared with scores of `calibrated`, which may have tried more
    /// families.
    pub fn is_part_of(&self, calibrated: &Self) -> bool {
        let alike = Self { families: calibrated.families.clone(), ..self.clone() };
        alike == *calibrated && self.families.iter().all(|family| calibrated.families.contains(family))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_families_is_comparable_and_another_recipe_is_not() {
        let resolve = |spec: ScreenSpec| spec.resolve(SubjectKind::Adapter, 1_000_000);
        let calibrated = resolve(ScreenSpec::default());
        let part =
            ScreenSpec { families: vec![BehaviourFamily::Code, BehaviourFamily::Insult], ..ScreenSpec::default() };
        assert!(resolve(part.clone()).is_part_of(&calibrated));
        assert!(!calibrated.is_part_of(&resolve(part)));
        assert!(!resolve(ScreenSpec { rows: 50, ..ScreenSpec::default() }).is_part_of(&calibrated));
        assert!(!ScreenSpec::default().resolve(SubjectKind::Adapter, 7_000_000_000).is_part_of(&calibrated));
    }
}
