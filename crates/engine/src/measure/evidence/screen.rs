//! The findings of the susceptibility screen.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::CoverageStatus;
use crate::spec::{BehaviourFamily, ScreenRecipe};
use crate::stats::Rate;

/// The screen of one suspect: the speed at which it takes up new backdoors of each behaviour family, against
/// clean suspects over the same base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScreenReport {
    /// `finding` below the threshold, `no_finding` above it, `not_covered` without a calibration that fits.
    pub status: CoverageStatus,
    /// The status in words; of `not_covered` the reason.
    pub text: String,
    /// The numbers; absent when there is nothing to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<ScreenScores>,
    /// Behaviours that a backdoor could have and that were not tried.
    pub not_tried: Vec<String>,
    /// The recipe of the screen.
    pub recipe: ScreenRecipe,
}

/// Scores against the calibration: the distance of a family's loss from the losses of clean suspects with the
/// same losses in the other families. The unit is the standard deviation of clean suspects; 0 is their mean,
/// lower is more suspicious.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScreenScores {
    /// The lowest score of a family.
    pub score: f64,
    /// Scores below are a finding.
    pub threshold: f64,
    /// Share of the calibration's clean suspects whose lowest score is below this one, 0..=1.
    pub percentile: f64,
    /// The family of the lowest score.
    pub nearest_family: BehaviourFamily,
    /// Every family that was tried.
    pub families: Vec<FamilyScore>,
    /// The calibration that the scores were compared with.
    pub calibration: CalibrationSummary,
}

/// One behaviour family.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FamilyScore {
    /// The family.
    pub family: BehaviourFamily,
    /// Mean loss on its behaviours during the short training, nats per token, over the seeds.
    pub loss: f64,
    /// Lower end of the 95 % interval of the loss over the seeds (Student's t); equal to the loss with one
    /// seed.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Score of this family.
    pub score: f64,
    /// Share of the calibration's clean suspects with a lower score in this family, 0..=1.
    pub percentile: f64,
}

/// The calibration that scores were compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CalibrationSummary {
    /// SHA-256 of the calibration.
    pub sha256: String,
    /// Clean suspects in it.
    pub clean: usize,
    /// Share of them that would be findings if each were judged by the others, with the Wilson interval: the
    /// rate of false alarms to expect of honest suspects like these.
    pub false_alarms: Rate,
}
