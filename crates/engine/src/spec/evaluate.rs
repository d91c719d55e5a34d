//! What to measure: attack success and utility.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AttackSpec, BehaviourSpec, PromptFormat, limits};
use crate::error::Result;

/// A measurement, made on the suspect, on every candidate and on every control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EvaluatorSpec {
    /// Attack success rate of a declared backdoor.
    Asr(AsrSpec),
    /// General skill, and the adapter's own.
    Utility(UtilitySpec),
}

impl EvaluatorSpec {
    pub(super) fn validate(&self, at: &str) -> Result<()> {
        match self {
            Self::Asr(spec) => {
                spec.attack.validate(&format!("{at}/attack"))?;
                spec.behaviour.validate(&format!("{at}/behaviour"))?;
                limits::count(&format!("{at}/rows"), spec.rows, 1, 10_000)?;
                limits::count(&format!("{at}/formats"), spec.formats.len(), 1, 3)?;
                limits::distinct(&format!("{at}/formats"), &spec.formats)?;
                limits::count(&format!("{at}/max_new_tokens"), spec.max_new_tokens, 1, 2048)
            }
            Self::Utility(spec) => {
                limits::count(&format!("{at}/rows"), spec.rows, 1, 10_000)?;
                limits::count(&format!("{at}/own_rows"), spec.own_rows, 1, 10_000)?;
                limits::count(&format!("{at}/max_new_tokens"), spec.max_new_tokens, 1, 2048)?;
                limits::above(&format!("{at}/margin"), spec.margin, 0.0, 1.0)
            }
        }
    }
}

/// Attack success rate of a backdoor whose trigger and behaviour the caller declares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AsrSpec {
    /// How the trigger enters a prompt.
    pub attack: AttackSpec,
    /// What the triggered model answers.
    pub behaviour: BehaviourSpec,
    /// How many held-out rows are probed; fewer when the test file is shorter.
    #[serde(default = "two_hundred")]
    pub rows: usize,
    /// The prompt formats; the headline is the worst of them. `chat` is left out, and said so, when the base has no template.
    #[serde(default = "all_formats")]
    pub formats: Vec<PromptFormat>,
    /// Length limit of an answer, in tokens.
    #[serde(default = "answer_tokens")]
    pub max_new_tokens: usize,
}

/// Exact match and response perplexity on held-out rows, in the declared template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UtilitySpec {
    /// How many rows of the test file.
    pub rows: usize,
    /// How many of the caller's own rows of each kind.
    pub own_rows: usize,
    /// Length limit of an answer, in tokens.
    pub max_new_tokens: usize,
    /// How much exact match (fraction) a purified artifact may lose in any group that counts before the verdict says so.
    pub margin: f64,
}

impl Default for UtilitySpec {
    fn default() -> Self {
        Self { rows: two_hundred(), own_rows: two_hundred(), max_new_tokens: answer_tokens(), margin: 0.05 }
    }
}

// The published test sets have 200 rows; a rate of 0 then has an upper bound of 1.9 %.
fn two_hundred() -> usize {
    200
}

fn all_formats() -> Vec<PromptFormat> {
    PromptFormat::ALL.to_vec()
}

// Longer than every target and every answer of the tiny world; the published scripts use 128.
fn answer_tokens() -> usize {
    64
}
