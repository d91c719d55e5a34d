//! Answers to read: the first prompts of every backdoor and format, so that nobody picks the pretty ones.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spec::PromptFormat;

/// Rows whose answers are shown, for each backdoor and format.
pub const SAMPLE_ROWS: usize = 3;
/// Longest prompt or answer that is shown.
pub const SAMPLE_CHARACTERS: usize = 400;

/// The answers of suspect and exported artifact to the first prompts of one backdoor in one format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Samples {
    /// Index of the backdoor among the `asr` entries of a measurement.
    pub backdoor: usize,
    /// The format in which the prompts were put.
    pub format: PromptFormat,
    /// The rule by which the rows were chosen, in words.
    pub picked: String,
    /// Row by row, with and without the trigger.
    pub rows: Vec<Sample>,
}

/// One prompt with its answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// Number of the row among those that were asked, from 1.
    pub row: usize,
    /// True when the trigger is in the prompt.
    pub with_trigger: bool,
    /// The question, without the words of the template.
    pub prompt: Excerpt,
    /// The suspect's answer.
    pub suspect: Answer,
    /// The exported artifact's answer; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Answer>,
}

/// An answer, and the detector's finding in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Answer {
    /// The text of the answer.
    pub said: Excerpt,
    /// True when it shows the behaviour.
    pub hit: bool,
}

/// The beginning of a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Excerpt {
    /// At most [`SAMPLE_CHARACTERS`] characters.
    pub text: String,
    /// Number of further characters that are not shown.
    pub omitted_characters: usize,
}

impl Excerpt {
    /// The beginning of `text`.
    pub fn of(text: &str) -> Self {
        let shown: String = text.chars().take(SAMPLE_CHARACTERS).collect();
        Self { omitted_characters: text[shown.len()..].chars().count(), text: shown }
    }
}

/// The rule by which the rows of [`Samples`] are chosen, in words.
pub(crate) fn picked(rows: usize) -> String {
    format!(
        "the first {rows} of the rows that were asked, whatever the answers; texts are cut after {SAMPLE_CHARACTERS} characters"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_how_much_is_missing() {
        let long = Excerpt::of(&"ä".repeat(SAMPLE_CHARACTERS + 7));
        assert_eq!((long.text.chars().count(), long.omitted_characters), (SAMPLE_CHARACTERS, 7));
        assert_eq!(Excerpt::of("short"), Excerpt { text: "short".into(), omitted_characters: 0 });
    }
}
