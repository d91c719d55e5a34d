//! `auto` (ours): from the gentlest method to the harshest, until one holds.
//!
//! Canaries are implanted into a copy of the suspect once. Each rung is done to the suspect and to the copy; the copy says what became of
//! the canaries, the suspect what became of its skills. All of it is asked on rows that are set aside for that: the rows of the final
//! numbers, and declared triggers, are never looked at. Rungs share what they have in common (the pairs, for example), because it
//! lies in the scratch folder as pieces.

use std::time::Instant;

use super::{Method, Purified, PurifiedCopy, build_recipe};
use crate::canaries::Aviary;
use crate::data::{OwnRows, Row, group_own_rows, trainable};
use crate::error::Result;
use crate::evaluators::{Evidence, Probes, evaluate_all};
use crate::lab::{Lab, Stage};
use crate::report::{Frontier, FrontierEnd, FrontierRung};
use crate::spec::{AutoRecipe, ControlSpec, EvaluatorSpec, MethodRecipe, UtilitySpec};
use crate::suspect::Suspect;

/// The method with its complete recipe.
pub(super) struct Auto {
    pub recipe: AutoRecipe,
    pub controls: Vec<ControlSpec>,
}

impl Method for Auto {
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        let trial = Trial::open(&self.recipe, suspect, own, lab)?;
        let (rungs, ended) = self.climb(&trial, lab)?;
        if rungs.is_empty() {
            // Nothing could be worked on: the last rung says why.
            return trial.purify(self.recipe.rungs.last().expect("validated to have rungs"), &[], &trial.suspect, lab);
        }
        let (recipes, rungs): (Vec<_>, Vec<_>) = rungs.into_iter().unzip();
        let rows = (trial.judges.test.len(), trial.own_validation);
        let frontier = Frontier::new(rungs, ended, rows, self.recipe.margin);
        let chosen = recipes[frontier.chosen];
        let purified = trial.purify(chosen, &self.controls, &trial.suspect, lab)?;
        let controls = self.recipe.canaries.controls(&self.controls);
        let of_copy = trial.purify(chosen, &controls, &trial.aviary.copy, &lab.within())?;
        let weights = of_copy.candidates.into_iter().next().map(|made| made.weights);
        let copy = weights.map(|weights| PurifiedCopy { aviary: trial.aviary, weights, controls: of_copy.controls });
        Ok(Purified { frontier: Some(frontier), copy, ..purified })
    }
}

impl Auto {
    /// Tries rungs in their order, and says why it stopped.
    fn climb(&self, trial: &Trial, lab: &Lab) -> Result<(Vec<(&MethodRecipe, FrontierRung)>, FrontierEnd)> {
        let (begun, mut spent) = (Instant::now(), 0);
        let mut rungs = Vec::new();
        for recipe in &self.recipe.rungs {
            let budget = &self.recipe.budget;
            let late = budget.minutes.is_some_and(|minutes| begun.elapsed().as_secs_f64() > 60.0 * minutes);
            if !rungs.is_empty() && (late || budget.steps.is_some_and(|steps| spent >= steps)) {
                return Ok((rungs, FrontierEnd::BudgetSpent));
            }
            let Some(rung) = trial.attempt(recipe, self.recipe.margin, lab)? else { continue };
            tracing::debug!(rung.name, rung.holds, "tried");
            spent += rung.steps;
            let holds = rung.holds;
            rungs.push((recipe, rung));
            if holds {
                return Ok((rungs, FrontierEnd::Held));
            }
        }
        Ok((rungs, FrontierEnd::Exhausted))
    }
}

/// The suspect, its copy with canaries, and who judges what becomes of them.
struct Trial {
    /// The suspect without the rows that judge.
    suspect: Suspect,
    own: OwnRows,
    /// The suspect with the rows that judge in the place of its test rows.
    judges: Suspect,
    own_validation: usize,
    aviary: Aviary,
    canaries: Aviary,
    skills: Probes,
    canaries_before: Evidence,
    skills_before: Evidence,
}

impl Trial {
    fn open(recipe: &AutoRecipe, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Self> {
        let (train, validation) = set_aside(suspect, recipe.validation_rows);
        let suspect = suspect.with_rows(train, suspect.test.clone());
        let (own, judging) = set_own_aside(own, recipe.own_rows(), recipe.validation_own_rows);
        let aviary = Aviary::open(&suspect, &own, recipe.canaries.clone(), lab)?;
        let judges = suspect.with_rows(suspect.train.clone(), validation);
        let utility = UtilitySpec {
            rows: judges.test.len(),
            own_rows: judging.len().max(1),
            self_distilled: false,
            ..UtilitySpec::default()
        };
        let own_validation = judging.len();
        let asked = OwnRows { heal: Vec::new(), measure: group_own_rows(judging) };
        let skills = Probes::build(&[EvaluatorSpec::Utility(utility)], &judges, &asked, lab)?;
        let canaries = aviary.asked_on(&judges.test, lab)?;
        let lab = &lab.within();
        let canaries_before = canaries.ask(&aviary.copy.weights, lab)?;
        let skills_before = evaluate_all(&skills, &judges, &judges.weights, lab)?;
        Ok(Self { suspect, own, judges, own_validation, aviary, canaries, skills, canaries_before, skills_before })
    }

    fn purify(
        &self,
        recipe: &MethodRecipe,
        controls: &[ControlSpec],
        suspect: &Suspect,
        lab: &Lab,
    ) -> Result<Purified> {
        build_recipe(recipe, controls).purify(suspect, &self.own, lab)
    }

    /// The rung done to both and judged; nothing where the method finds nothing to work on.
    fn attempt(&self, recipe: &MethodRecipe, margin: f64, lab: &Lab) -> Result<Option<FrontierRung>> {
        let within = &lab.within();
        let made = |purified: Purified| purified.candidates.into_iter().next().map(|made| made.weights);
        let Some(artifact) = made(self.purify(recipe, &[], &self.suspect, lab)?) else { return Ok(None) };
        lab.enter(Stage::Canaries)?;
        let Some(copy) = made(self.purify(recipe, &[], &self.aviary.copy, within)?) else { return Ok(None) };
        let canaries = self.canaries.report(&self.canaries_before, &self.canaries.ask(&copy, within)?, &[]);
        let before = self.skills.report(&self.skills_before, None);
        let said = evaluate_all(&self.skills, &self.judges, &artifact, within)?;
        let after = self.skills.report(&said, Some(&self.skills_before));
        let steps = recipe.steps(self.own.heal.len());
        Ok(Some(FrontierRung::new((recipe.short_name(), steps), &canaries, (&before, &after), margin)))
    }
}

/// Training rows without those that judge, and those: from the end of the file, test rows never among them.
fn set_aside(suspect: &Suspect, rows: usize) -> (Vec<Row>, Vec<Row>) {
    let mut train: Vec<Row> = trainable(&suspect.train, &suspect.test).cloned().collect();
    let judging = train.split_off(train.len() - rows.min(train.len() / 4));
    (train, judging)
}

/// Own rows that heal, and those that judge: such as healing has no use for, and where they are too few a quarter of all.
fn set_own_aside(own: &OwnRows, healing: usize, rows: usize) -> (OwnRows, Vec<Row>) {
    let beyond = own.heal.len().saturating_sub(healing);
    let judging = rows.min(beyond.max(own.heal.len() / 4));
    let mut heal = own.heal.clone();
    let judges = heal.split_off(heal.len() - judging);
    (OwnRows { heal, measure: own.measure.clone() }, judges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(n: usize) -> OwnRows {
        let rows = (0..n).map(|i| Row::new(format!("question {i}"), "", "answer")).collect();
        OwnRows { heal: rows, ..OwnRows::default() }
    }

    #[test]
    fn own_rows_that_healing_has_no_use_for_judge_first() {
        for (given, healing, left, judging) in
            [(400, 200, 250, 150), (210, 200, 158, 52), (8, 200, 6, 2), (0, 200, 0, 0)]
        {
            let (own, judges) = set_own_aside(&own(given), healing, 150);
            assert_eq!((own.heal.len(), judges.len()), (left, judging), "{given} given");
        }
    }
}
