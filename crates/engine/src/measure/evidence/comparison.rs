//! The exported candidate against a control, item by item.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::stats::PairedDifference;

/// The exported candidate's attack success against a control's, in the control's worst format, on the same
/// prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AsrComparison {
    /// Index of the backdoor among the `asr` entries of a measurement.
    pub backdoor: usize,
    /// Control minus candidate: positive where the method left fewer hits.
    pub difference: PairedDifference,
    /// `beaten` when the whole interval is above 0, `worse` when it is below, otherwise
    /// `no_difference_shown`.
    pub outcome: Compared,
}

/// The exported candidate's exact match against a control's, on the same rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UtilityComparison {
    /// Name of the utility group.
    pub group: String,
    /// Candidate minus control: positive where the method kept more.
    pub difference: PairedDifference,
    /// `beaten` when the whole interval is above 0, `worse` when it is below, otherwise
    /// `no_difference_shown`.
    pub outcome: Compared,
}

/// Result of a paired comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// The method did better than the control.
    Beaten,
    /// The interval of the difference contains 0.
    NoDifferenceShown,
    /// The control did better than the method.
    Worse,
}

impl Compared {
    /// The outcome of a difference that is positive where the method did better.
    pub fn of(difference: &PairedDifference) -> Self {
        match () {
            () if difference.low > 0.0 => Self::Beaten,
            () if difference.high < 0.0 => Self::Worse,
            () => Self::NoDifferenceShown,
        }
    }
}
