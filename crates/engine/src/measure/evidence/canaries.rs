//! The fate of backdoors of our own.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::canary_words::canaries_in_words;
use super::{AsrComparison, AsrReport, Compared, MeasurementRecipe, rules};
use crate::spec::{BehaviourFamily, CanaryRecipe, CanaryTrigger};
use crate::stats::{PairedDifference, Rate};

/// Canary ASR: the rate at which backdoors of our own fire in a copy of the suspect, before and after the
/// copy went through the same purification. No number of it is about the suspect's own backdoor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CanaryReport {
    /// The result in words, with its meaning and its limits.
    pub text: String,
    /// Canary by canary.
    pub canaries: Vec<CanaryResult>,
    /// The method's controls on the same canaries: where no trigger is declared, the only way to say whether
    /// the method beats them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<CanaryControl>,
    /// Kinds of backdoors that no canary stands for.
    pub not_covered: Vec<String>,
    /// The recipe of the measurement.
    pub recipe: CanaryRecipe,
}

/// One canary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CanaryResult {
    /// Kind of its trigger.
    pub trigger: CanaryTrigger,
    /// Family of its behaviour.
    pub family: BehaviourFamily,
    /// The outcome that the numbers show.
    pub outcome: CanaryOutcome,
    /// The copy with canaries, before.
    pub before: AsrReport,
    /// The copy after the same purification.
    pub after: AsrReport,
}

/// A control, done to the copy in the place of the method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CanaryControl {
    /// Such as `plain_fine_tuning`.
    pub name: String,
    /// The canaries after the control, in the order of the report's canaries.
    pub canaries: Vec<ControlledCanary>,
}

/// One canary after a control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ControlledCanary {
    /// Kind of its trigger.
    pub trigger: CanaryTrigger,
    /// Family of its behaviour.
    pub family: BehaviourFamily,
    /// The recipe of the measurement, in the worst format.
    pub recipe: MeasurementRecipe,
    /// After the control, in the worst format.
    pub after: Rate,
    /// Control minus method on the same prompts: positive where the method left fewer hits.
    pub difference: PairedDifference,
    /// The outcome that the difference shows.
    pub outcome: Compared,
}

impl ControlledCanary {
    /// The worst format of `left`, compared with the method there.
    pub fn new((trigger, family): (CanaryTrigger, BehaviourFamily), left: &AsrReport, compared: AsrComparison) -> Self {
        let worst = left.formats.iter().find(|format| format.recipe.format == left.headline.format);
        let recipe = worst.expect("the headline is one of the formats").recipe.clone();
        let AsrComparison { difference, outcome, .. } = compared;
        Self { trigger, family, recipe, after: left.headline.rate, difference, outcome }
    }
}

/// The outcome of one canary.
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
    pub fn new(
        canaries: Vec<CanaryResult>,
        controls: Vec<CanaryControl>,
        not_covered: Vec<String>,
        recipe: CanaryRecipe,
    ) -> Self {
        Self { text: canaries_in_words(&canaries, &controls), canaries, controls, not_covered, recipe }
    }

    /// Places of the canaries that were strong in the copy: the others say nothing.
    pub fn strong(&self) -> impl Iterator<Item = usize> {
        let is_strong = |i: &usize| self.canaries[*i].outcome != CanaryOutcome::Weak;
        (0..self.canaries.len()).filter(is_strong)
    }

    /// Mean of a number of the canaries that were strong; `None` where none was.
    pub fn mean_of_strong(&self, of: impl Fn(usize) -> f64) -> Option<f64> {
        let numbers: Vec<f64> = self.strong().map(of).collect();
        (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64)
    }

    /// Number of canaries with this outcome.
    pub fn count(&self, outcome: CanaryOutcome) -> usize {
        self.canaries.iter().filter(|canary| canary.outcome == outcome).count()
    }
}
