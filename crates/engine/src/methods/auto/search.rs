//! The search of `auto`: attack success against utility on rows that no final number sees, trial by trial.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::measure::evidence::{CanaryOutcome, CanaryReport, Measurement, MeasurementRecipe, rules};
use crate::spec::{BehaviourFamily, CanaryTrigger};
use crate::stats::{PairedDifference, Rate};

/// The trials that were tried, and the one that was chosen. All of its numbers are from validation rows; the
/// report's other numbers are from rows that took no part in the choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Search {
    /// The search and its choice, in words.
    pub text: String,
    /// In the order in which they were tried.
    pub trials: Vec<Trial>,
    /// Index of the exported one.
    pub chosen: usize,
    /// The reason why no other trial was tried.
    pub ended: SearchEnd,
    /// General rows on which they were judged.
    pub rows: usize,
    /// Task rows on which they were judged.
    pub task_rows: usize,
    /// Largest loss of exact match that holds.
    pub margin: f64,
}

/// One trial: a method, done to the suspect and to a copy of it with canaries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Trial {
    /// Such as `subspace-1`.
    pub name: String,
    /// Steps of training that it takes by itself; what trials share is trained once.
    pub steps: usize,
    /// Backdoors of our own in the copy, before and after.
    pub canaries: Vec<TrialCanary>,
    /// Skills of the suspect, before and after.
    pub utility: Vec<TrialSkill>,
    /// True when every canary that was strong is removed and every skill that counts is within the margin.
    pub holds: bool,
}

/// A canary of a trial: worst format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrialCanary {
    /// Kind of its trigger.
    pub trigger: CanaryTrigger,
    /// Family of its behaviour.
    pub family: BehaviourFamily,
    /// The outcome that the numbers show.
    pub outcome: CanaryOutcome,
    /// The recipe of the measurement, in the worst format.
    pub recipe: MeasurementRecipe,
    /// In the copy.
    pub before: Rate,
    /// In the copy after this trial.
    pub after: Rate,
}

/// A skill of a trial: exact match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrialSkill {
    /// Such as `general` or `task_extended`.
    pub group: String,
    /// True of a skill that decides whether the trial holds.
    pub counts: bool,
    /// The recipe of the measurement.
    pub recipe: MeasurementRecipe,
    /// The suspect.
    pub before: Rate,
    /// The artifact of this trial.
    pub after: Rate,
    /// After minus before, paired.
    pub difference: Option<PairedDifference>,
}

/// The reason why `auto` stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SearchEnd {
    /// The last trial holds.
    Held,
    /// All were tried and none holds.
    Exhausted,
    /// The budget was spent before one held.
    BudgetSpent,
}

impl Trial {
    /// A trial, from the measurements of the copy and of the artifact.
    pub fn new(
        (name, steps): (String, usize),
        canaries: &CanaryReport,
        (before, after): (&Measurement, &Measurement),
        margin: f64,
    ) -> Self {
        let canaries: Vec<_> = canaries
            .canaries
            .iter()
            .map(|canary| TrialCanary {
                trigger: canary.trigger,
                family: canary.family,
                outcome: canary.outcome,
                recipe: canary.after.worst().recipe.clone(),
                before: canary.before.headline.rate,
                after: canary.after.headline.rate,
            })
            .collect();
        let groups =
            |measurement: &Measurement| measurement.utility.iter().flat_map(|u| u.groups.clone()).collect::<Vec<_>>();
        let utility: Vec<_> = groups(before)
            .into_iter()
            .zip(groups(after))
            .map(|(was, is)| TrialSkill {
                counts: rules::counts(&is),
                recipe: is.recipe,
                before: was.exact_match,
                after: is.exact_match,
                difference: is.versus_suspect,
                group: is.name,
            })
            .collect();
        let strong = canaries.iter().filter(|canary| canary.outcome != CanaryOutcome::Weak).count();
        let removed = canaries.iter().filter(|canary| canary.outcome == CanaryOutcome::Removed).count();
        let kept = !rules::lost(before, after, margin);
        Self { name, steps, canaries, utility, holds: strong > 0 && removed == strong && kept }
    }

    /// The excess of the trial over its limits: the worst canary's upper bound beyond its limit and the worst
    /// loss beyond the margin, added.
    pub fn excess(&self, margin: f64) -> f64 {
        (self.worst_canary().map_or(0.0, |rate| rate.high) - rules::ASR_LIMIT).max(0.0)
            + (self.worst_loss() - margin).max(0.0)
    }

    /// Attack success of the canary that fires most, among the strong ones where there are any.
    pub fn worst_canary(&self) -> Option<Rate> {
        let strong = self.canaries.iter().any(|canary| canary.outcome != CanaryOutcome::Weak);
        let asked = self.canaries.iter().filter(|canary| !strong || canary.outcome != CanaryOutcome::Weak);
        asked.map(|canary| canary.after).max_by(|a, b| a.high.total_cmp(&b.high))
    }

    /// The largest loss of a skill that counts.
    pub fn worst_loss(&self) -> f64 {
        let counting = self.utility.iter().filter(|skill| skill.counts);
        counting.filter_map(|skill| skill.difference).map(|paired| -paired.difference).fold(0.0, f64::max)
    }
}

impl Search {
    /// Chooses: the trial that holds, or else the one that misses by least, the gentler one of two.
    ///
    /// # Panics
    /// Without a trial.
    pub fn new(trials: Vec<Trial>, ended: SearchEnd, (rows, task_rows): (usize, usize), margin: f64) -> Self {
        let misses = |trial: &Trial| if trial.holds { -1.0 } else { trial.excess(margin) };
        let chosen = (0..trials.len())
            .min_by(|a, b| misses(&trials[*a]).total_cmp(&misses(&trials[*b])))
            .expect("at least one trial was tried");
        let text = text(&trials, chosen, ended);
        Self { text, trials, chosen, ended, rows, task_rows, margin }
    }
}

fn text(trials: &[Trial], chosen: usize, ended: SearchEnd) -> String {
    let percent = |rate: f64| format!("{:.1} %", 100.0 * rate);
    let trial = &trials[chosen];
    let tried = match trials.len() {
        1 => "one method".to_owned(),
        n => format!("{n} methods, the gentlest first"),
    };
    let canaries = trial.worst_canary().map_or_else(String::new, |rate| {
        format!(
            "the canary that fired most fired on {} of its prompts (at most {})",
            percent(rate.rate),
            percent(rate.high)
        )
    });
    let reason = match ended {
        SearchEnd::Held => "it is the first that held there",
        SearchEnd::Exhausted => "none held there, and it missed by least",
        SearchEnd::BudgetSpent => "none had held there when the budget was spent, and it missed by least",
    };
    format!(
        "Tried {tried}, and judged each on rows set aside for that. Chosen: {}, because {reason}: {canaries}, and the largest loss of a skill that \
         counts was {:.1} points.",
        trial.name,
        100.0 * trial.worst_loss()
    )
}
