//! What `auto` tried: attack success against utility on rows that no final number sees, rung by rung.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CanaryOutcome, CanaryReport, Measurement, MeasurementRecipe, PairedDifference, Rate, rules};
use crate::spec::{BehaviourFamily, CanaryTrigger};

/// The rungs that were tried, and the one that was chosen. All of its numbers are from validation rows; the report's other numbers are
/// from rows that took no part in the choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Frontier {
    /// What was tried and chosen, in words.
    pub text: String,
    /// In the order in which they were tried.
    pub rungs: Vec<FrontierRung>,
    /// Index of the exported one.
    pub chosen: usize,
    /// Why no other rung was tried.
    pub ended: FrontierEnd,
    /// General rows on which they were judged.
    pub rows: usize,
    /// Own rows on which they were judged.
    pub own_rows: usize,
    /// Largest loss of exact match that holds.
    pub margin: f64,
}

/// One rung: a method, done to the suspect and to a copy of it with canaries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FrontierRung {
    /// Such as `subspace-1`.
    pub name: String,
    /// Steps of training that it takes by itself; what rungs share is trained once.
    pub steps: usize,
    /// Backdoors of our own in the copy, before and after.
    pub canaries: Vec<FrontierCanary>,
    /// Skills of the suspect, before and after.
    pub utility: Vec<FrontierSkill>,
    /// Whether every canary that was strong is removed and every skill that counts is within the margin.
    pub holds: bool,
}

/// A canary of a rung: worst format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FrontierCanary {
    /// Kind of its trigger.
    pub trigger: CanaryTrigger,
    /// Family of its behaviour.
    pub family: BehaviourFamily,
    /// What is shown.
    pub outcome: CanaryOutcome,
    /// How it was measured, in the worst format.
    pub recipe: MeasurementRecipe,
    /// In the copy.
    pub before: Rate,
    /// In the copy after this rung.
    pub after: Rate,
}

/// A skill of a rung: exact match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FrontierSkill {
    /// Such as `general` or `own_extended`.
    pub group: String,
    /// Whether it decides.
    pub counts: bool,
    /// How it was measured.
    pub recipe: MeasurementRecipe,
    /// The suspect.
    pub before: Rate,
    /// The artifact of this rung.
    pub after: Rate,
    /// After minus before, paired.
    pub difference: Option<PairedDifference>,
}

/// Why `auto` stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FrontierEnd {
    /// The last rung holds.
    Held,
    /// All were tried and none holds.
    Exhausted,
    /// The budget was spent before one held.
    BudgetSpent,
}

impl FrontierRung {
    /// A rung, from what the copy and the artifact were measured at.
    pub fn new(
        (name, steps): (String, usize),
        canaries: &CanaryReport,
        (before, after): (&Measurement, &Measurement),
        margin: f64,
    ) -> Self {
        let canaries: Vec<_> = canaries
            .canaries
            .iter()
            .map(|canary| FrontierCanary {
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
            .map(|(was, is)| FrontierSkill {
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

    /// By how much the rung misses what it must hold: the worst canary's upper bound beyond its limit and the worst loss beyond the margin,
    /// added.
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

impl Frontier {
    /// Chooses: the rung that holds, or else the one that misses by least, the gentler one of two.
    ///
    /// # Panics
    /// Without a rung.
    pub fn new(rungs: Vec<FrontierRung>, ended: FrontierEnd, (rows, own_rows): (usize, usize), margin: f64) -> Self {
        let misses = |rung: &FrontierRung| if rung.holds { -1.0 } else { rung.excess(margin) };
        let chosen = (0..rungs.len())
            .min_by(|a, b| misses(&rungs[*a]).total_cmp(&misses(&rungs[*b])))
            .expect("at least one rung was tried");
        let text = text(&rungs, chosen, ended);
        Self { text, rungs, chosen, ended, rows, own_rows, margin }
    }
}

fn text(rungs: &[FrontierRung], chosen: usize, ended: FrontierEnd) -> String {
    let percent = |rate: f64| format!("{:.1} %", 100.0 * rate);
    let rung = &rungs[chosen];
    let tried = match rungs.len() {
        1 => "one method".to_owned(),
        n => format!("{n} methods, the gentlest first"),
    };
    let canaries = rung.worst_canary().map_or_else(String::new, |rate| {
        format!(
            "the canary that fired most fired on {} of its prompts (at most {})",
            percent(rate.rate),
            percent(rate.high)
        )
    });
    let reason = match ended {
        FrontierEnd::Held => "it is the first that held there",
        FrontierEnd::Exhausted => "none held there, and it missed by least",
        FrontierEnd::BudgetSpent => "none had held there when the budget was spent, and it missed by least",
    };
    format!(
        "Tried {tried}, and judged each on rows set aside for that. Chosen: {}, because {reason}: {canaries}, and the largest loss of a skill that \
         counts was {:.1} points.",
        rung.name,
        100.0 * rung.worst_loss()
    )
}
