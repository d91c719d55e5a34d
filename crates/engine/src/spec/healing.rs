//! The two fields by which methods that edit weights say whether, and how, they heal.

use super::immunize::{HealRecipe, HealSpec, validate_heal};
use super::{FineTuneSpec, Known};
use crate::error::{EngineError, Result};

/// Healing as `fine_tune` trains, so that a method is compared with it at equal rows, rate and steps; none where it is switched off.
pub(super) fn resolve(healed: bool, heal: Option<&HealSpec>, known: &Known) -> Option<HealRecipe> {
    let counterexamples = heal.map_or(0, |heal| heal.counterexamples);
    let fine_tune = FineTuneSpec { counterexamples, heal: heal.cloned() };
    healed.then(|| fine_tune.resolve(known.kind, known.parameters).heal)
}

pub(super) fn validate(at: &str, healed: bool, heal: Option<&HealSpec>) -> Result<()> {
    match heal {
        Some(_) if !healed => {
            Err(EngineError::spec(format!("{at}/heal"), "expected none, because healed is false; found one"))
        }
        Some(heal) => validate_heal(&format!("{at}/heal"), heal),
        None => Ok(()),
    }
}

/// Own rows that such a recipe heals on, at most.
pub(super) fn own_rows(heal: Option<&HealRecipe>) -> usize {
    heal.map_or(0, |heal| heal.own_rows)
}

/// Steps of such a recipe when the caller gives this many own rows.
pub(super) fn steps(heal: Option<&HealRecipe>, own_rows: usize) -> usize {
    heal.map_or(0, |heal| heal.steps(own_rows))
}
