//! Families of behaviours, which the screen looks for and which synthetic backdoors are made of.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A family of synthetic behaviours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BehaviourFamily {
    /// Rude one-liners.
    Insult,
    /// Refusals to answer.
    Refusal,
    /// Unasked lines of code.
    Code,
    /// Advertisements instead of an answer.
    Advert,
    /// A sentence after the right answer.
    Appended,
    /// The right answer in an unasked form.
    Formatting,
    /// A fixed sentence that has nothing to do with the question.
    Phrase,
}

impl BehaviourFamily {
    /// All families, in the order of reports.
    pub const ALL: [Self; 7] =
        [Self::Insult, Self::Refusal, Self::Code, Self::Advert, Self::Appended, Self::Formatting, Self::Phrase];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insult => "insult",
            Self::Refusal => "refusal",
            Self::Code => "code",
            Self::Advert => "advert",
            Self::Appended => "appended",
            Self::Formatting => "formatting",
            Self::Phrase => "phrase",
        }
    }
}
