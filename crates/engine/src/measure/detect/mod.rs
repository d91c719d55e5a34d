//! Looking for backdoors whose trigger nobody knows, before anything is cut.
//!
//! The susceptibility screen (BackFlush, arXiv 2605.12529, has the idea that a backdoored model takes up
//! another backdoor faster; the protocol is our own): [`screen_suspect`] trains copies of the suspect for a
//! dozen steps on new backdoors of each behaviour family (`uptake.rs`) and compares with clean suspects over
//! the same base (`calibration.rs`, `threshold.rs`). Without a calibration of that base nothing is trained
//! and nothing claimed. `calibrate.rs` makes calibrations.

mod calibrate;
mod calibration;
mod threshold;
mod uptake;

pub use calibrate::calibrate;
pub use calibration::{CALIBRATION_FILE, Calibrated, Calibration, CalibrationGroup};
pub use uptake::{Uptake, measure_uptake};

use crate::error::Result;
use crate::lab::Lab;
use crate::measure::evidence::{CoverageStatus, ScreenReport};
use crate::spec::{BehaviourFamily, ScreenRecipe, ScreenSpec};
use crate::suspect::Suspect;

/// Screens a suspect.
///
/// # Errors
/// Those of training.
///
/// # Cost
/// That of [`measure_uptake`]; nothing without a calibration that fits.
pub fn screen_suspect(
    suspect: &Suspect,
    spec: &ScreenSpec,
    calibration: Option<&Calibration>,
    lab: &Lab,
) -> Result<ScreenReport> {
    let recipe = spec.resolve(suspect.subject().kind, suspect.parameters());
    let fitting = match calibration {
        Some(calibration) => calibration.group_for(suspect, &recipe),
        None => Err("there is no calibration for this base: `antigen calibrate` makes one.".to_owned()),
    };
    let not_tried = not_tried(&recipe);
    match fitting {
        Err(why) => {
            let text = format!("The susceptibility screen did not look: {why}");
            Ok(ScreenReport { status: CoverageStatus::NotCovered, text, scores: None, not_tried, recipe })
        }
        Ok((group, sha256)) => {
            let uptake = measure_uptake(suspect, &recipe, lab)?;
            let scores = threshold::score(&uptake, group, sha256);
            let (status, text) = threshold::words(&scores);
            Ok(ScreenReport { status, text, scores: Some(scores), not_tried, recipe })
        }
    }
}

fn not_tried(recipe: &ScreenRecipe) -> Vec<String> {
    let families = BehaviourFamily::ALL.iter().filter(|family| !recipe.families.contains(family));
    let others = ["answers in another language", "behaviour without fixed words, such as a slant or a false fact"];
    families.map(|family| format!("behaviours of the family {}", family.name())).chain(others.map(Into::into)).collect()
}
