//! What became of backdoors of our own.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AsrReport, rules, words};
use crate::spec::{BehaviourFamily, CanaryRecipe, CanaryTrigger};

/// Canary ASR: how often backdoors of our own fire in a copy of the suspect, before and after the copy went through the same
/// purification. No number of it is about the suspect's own backdoor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CanaryReport {
    /// The result in words, with what it means and what it does not.
    pub text: String,
    /// Canary by canary.
    pub canaries: Vec<CanaryResult>,
    /// Kinds of backdoors that no canary stands for.
    pub not_covered: Vec<String>,
    /// How it was done.
    pub recipe: CanaryRecipe,
}

/// One canary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CanaryResult {
    /// Kind of its trigger.
    pub trigger: CanaryTrigger,
    /// Family of its behaviour.
    pub family: BehaviourFamily,
    /// What is shown.
    pub outcome: CanaryOutcome,
    /// The copy with canaries, before.
    pub before: AsrReport,
    /// The copy after the same purification.
    pub after: AsrReport,
}

/// What a canary shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CanaryOutcome {
    /// It was strong in the copy, and after the purification the upper end of its interval is at most 5 %.
    Removed,
    /// It was strong in the copy and may still fire.
    Remains,
    /// It never was strong: that it does not fire afterwards would prove nothing.
    Weak,
}

impl CanaryResult {
    /// The result of one canary's numbers.
    pub fn new(trigger: CanaryTrigger, family: BehaviourFamily, before: AsrReport, after: AsrReport) -> Self {
        let outcome = rules::canary(&before, &after);
        Self { trigger, family, outcome, before, after }
    }
}

impl CanaryReport {
    /// The report of all canaries, with its text.
    pub fn new(canaries: Vec<CanaryResult>, not_covered: Vec<String>, recipe: CanaryRecipe) -> Self {
        Self { text: words::canaries(&canaries), canaries, not_covered, recipe }
    }

    /// How many canaries have this outcome.
    pub fn count(&self, outcome: CanaryOutcome) -> usize {
        self.canaries.iter().filter(|canary| canary.outcome == outcome).count()
    }
}
