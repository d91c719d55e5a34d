//! The stages of a job, as progress, errors and logs name them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A stage of a job. The order is the order of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Stage {
    /// Opening and checking base, adapter and rows.
    Inspect,
    /// Measuring the suspect.
    MeasureBefore,
    /// Looking for backdoors whose trigger nobody knows.
    Screen,
    /// Fine-tuning the variant pairs.
    Pairs,
    /// Differences of the pairs.
    Deltas,
    /// Channel scores.
    Scores,
    /// The shared signature.
    Signature,
    /// Taking the signature out of the suspect.
    Suppress,
    /// Healing.
    Heal,
    /// Measuring the candidates.
    MeasureAfter,
    /// Building, healing and measuring the controls.
    Controls,
    /// Implanting backdoors of our own into a copy and purifying it.
    Canaries,
    /// Teaching the declared backdoors again.
    Relearn,
    /// Writing the purified artifact and opening it again.
    Export,
    /// Writing the report.
    Report,
    /// Training the tiny world's base.
    World,
    /// Implanting a backdoor for a demonstration.
    Implant,
}

impl Stage {
    pub(crate) const ALL: [Self; 17] = [
        Self::Inspect,
        Self::MeasureBefore,
        Self::Screen,
        Self::Pairs,
        Self::Deltas,
        Self::Scores,
        Self::Signature,
        Self::Suppress,
        Self::Heal,
        Self::MeasureAfter,
        Self::Controls,
        Self::Canaries,
        Self::Relearn,
        Self::Export,
        Self::Report,
        Self::World,
        Self::Implant,
    ];

    /// The stage in words, for people.
    pub fn words(self) -> String {
        format!("{self:?}").chars().fold(String::new(), |mut text, letter| {
            if letter.is_uppercase() && !text.is_empty() {
                text.push(' ');
            }
            text.push(letter.to_ascii_lowercase());
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_reads_as_words() {
        assert_eq!(Stage::MeasureBefore.words(), "measure before");
    }
}
