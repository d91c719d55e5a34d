//! Accuracy on public benchmarks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::MeasurementRecipe;
use crate::spec::BenchmarkName;
use crate::stats::{PairedDifference, Rate};

/// Accuracy of one model on one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BenchmarkReport {
    /// The benchmark.
    pub name: BenchmarkName,
    /// The recipe that repeats it: the bare text, the digest of the questions, the seed that drew the items
    /// (stream `benchmark/<name>`).
    pub recipe: MeasurementRecipe,
    /// SHA-256 of the benchmark's file.
    pub file_sha256: String,
    /// Items in that file.
    pub file_items: usize,
    /// Solved examples before each question.
    pub shots: usize,
    /// The score that counts: `length_normalised` for choices, `last_number` for generated answers.
    pub headline: BenchmarkScore,
    /// The same answers counted in the other usual way: `summed` for choices, `marked_number` for generated
    /// answers.
    pub other: BenchmarkScore,
    /// Expected accuracy of guessing: the mean of 1 / choices; 0 for generated answers.
    pub chance: f64,
    /// Prompts whose beginning was cut because the model has too few positions.
    pub cut_prompts: usize,
    /// The headline against the suspect's on the same items; absent on the suspect itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versus_suspect: Option<PairedDifference>,
    /// Largest loss of accuracy (fraction) that is allowed, as the job stated it.
    pub margin: f64,
    /// The verdict of the difference's interval on the margin; absent on the suspect itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_inferiority: Option<NonInferiority>,
}

/// Accuracy by one way of counting.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BenchmarkScore {
    /// The way of counting.
    pub scoring: Scoring,
    /// Right items.
    pub accuracy: Rate,
}

/// The rule by which an item counts as right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// The right choice has the highest log-likelihood per character.
    LengthNormalised,
    /// The right choice has the highest log-likelihood.
    Summed,
    /// The last number of the answer is the right one.
    LastNumber,
    /// The number behind `####` is the right one, as the benchmark's authors count.
    MarkedNumber,
}

impl Scoring {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::LengthNormalised => "length_normalised",
            Self::Summed => "summed",
            Self::LastNumber => "last_number",
            Self::MarkedNumber => "marked_number",
        }
    }
}

/// The verdict of a paired difference's interval on a margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NonInferiority {
    /// The whole interval is above minus the margin.
    Shown,
    /// The interval contains minus the margin: too few items to tell.
    NotShown,
    /// The whole interval is below minus the margin.
    Inferior,
}

impl NonInferiority {
    /// As a phrase.
    pub fn words(self) -> &'static str {
        match self {
            Self::Shown => "not inferior",
            Self::NotShown => "not shown to be no worse",
            Self::Inferior => "inferior",
        }
    }

    /// The verdict of an interval on a margin.
    pub fn of(difference: &PairedDifference, margin: f64) -> Self {
        match () {
            () if difference.low > -margin => Self::Shown,
            () if difference.high < -margin => Self::Inferior,
            () => Self::NotShown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::paired_difference;

    #[test]
    fn only_a_whole_interval_above_the_margin_shows_non_inferiority() {
        let verdict = |low, high| {
            let difference = PairedDifference { low, high, ..paired_difference(&[true; 10], &[true; 10]) };
            NonInferiority::of(&difference, 0.05)
        };
        assert_eq!(verdict(-0.04, 0.01), NonInferiority::Shown);
        assert_eq!(verdict(-0.08, 0.01), NonInferiority::NotShown);
        assert_eq!(verdict(-0.2, -0.06), NonInferiority::Inferior);
    }
}
