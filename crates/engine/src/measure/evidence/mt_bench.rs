//! Answers to MT-Bench, and a judge's ratings of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::MeasurementRecipe;
use crate::stats::Rate;

/// Answers of one model to two-turn questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MtBenchReport {
    /// The recipe that repeats it; the digest of prompts is that of the first turns.
    pub recipe: MeasurementRecipe,
    /// SHA-256 of the file of questions.
    pub file_sha256: String,
    /// Empty answers, of both turns.
    pub empty: Rate,
    /// Degenerate answers: empty, one character, or mostly one repeated phrase.
    pub degenerate: Rate,
    /// Mean length of an answer.
    pub mean_tokens: f64,
    /// Second prompts whose beginning was cut because the model has too few positions.
    pub cut_prompts: usize,
    /// The answers, each turn cut at 8192 characters.
    pub answers: Vec<MtBenchAnswer>,
    /// The ratings of a judge; absent when none was asked. Without a judge there is no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
}

/// Both answers to one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MtBenchAnswer {
    /// Number of the question in its file.
    pub question_id: u64,
    /// Such as `writing`.
    pub category: String,
    /// The answers in their order.
    pub turns: Vec<String>,
    /// The judge's rating of each turn, 1 to 10; null where it gave none. Empty when no judge was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Option<f64>>,
}

/// A summary of a judge's ratings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Judged {
    /// The model that judged, by the name it was asked under. Ratings are another model's opinion and do not
    /// repeat to the digit.
    pub judge: String,
    /// SHA-256 of the file of the judge's prompts.
    pub prompts_sha256: String,
    /// Mean rating over the turns that have one; absent when none has.
    pub mean: Option<f64>,
    /// Turns with a rating.
    pub rated: usize,
    /// Turns without one, by reason: `no_answer` (no connection, no answer in time, an error), `no_rating`
    /// (an answer without a rating from 1 to 10), `not_asked` (given up after repeated failures), `no_prompt`
    /// (the judge's prompts have none for it).
    pub unrated: std::collections::BTreeMap<String, usize>,
}
