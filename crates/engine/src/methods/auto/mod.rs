//! `auto` (ours): from the gentlest method to the harshest, until one holds.
//!
//! Canaries are implanted into a copy of the suspect once. Each trial is done to the suspect and to the copy;
//! the copy says whether the canaries are removed, the suspect whether its skills are kept. All of it is
//! asked on rows that are set aside for that: the rows of the final numbers, and declared triggers, are never
//! looked at. Trials share what they have in common (the pairs, for example), because it lies in the scratch
//! folder as pieces.

mod search;
mod spec;

use std::time::Instant;

pub use search::{Search, SearchEnd, Trial, TrialCanary, TrialSkill};
pub use spec::{AutoBudget, AutoRecipe, AutoSpec};

use super::{Details, Method, MethodRecipe, Purified, PurifiedCopy};
use crate::data::{Row, TaskRows, group_task_rows, trainable};
use crate::error::Result;
use crate::lab::Lab;
use crate::measure::canaries::CanarySuite;
use crate::measure::evaluators::{Evidence, Probes, evaluate_all};
use crate::spec::{ControlSpec, EvaluatorSpec, HealRecipe, UtilitySpec};
use crate::stage::Stage;
use crate::suspect::Suspect;

impl Method for AutoRecipe {
    fn name(&self) -> String {
        "auto".into()
    }

    fn heal(&self) -> Option<&HealRecipe> {
        None
    }

    fn task_rows(&self) -> usize {
        self.trials.iter().map(|trial| trial.method().task_rows()).max().unwrap_or(0)
    }

    fn validation_task_rows(&self) -> usize {
        self.validation_task_rows
    }

    /// Steps when everything is tried.
    fn steps(&self, task_rows: usize) -> usize {
        self.trials.iter().map(|trial| trial.method().steps(task_rows)).sum()
    }

    fn purify(&self, suspect: &Suspect, task: &TaskRows, controls: &[ControlSpec], lab: &Lab) -> Result<Purified> {
        let validation = Validation::open(self, suspect, task, lab)?;
        let (trials, ended) = self.search(&validation, lab)?;
        // Rows that a trial had no room for are noted by the chosen method once more.
        lab.take_long_rows();
        if trials.is_empty() {
            // No method found anything to work on: the last one says why.
            let last = self.trials.last().expect("validated to have trials");
            return validation.purify(last, &[], &validation.suspect, lab);
        }
        let (recipes, trials): (Vec<_>, Vec<_>) = trials.into_iter().unzip();
        let rows = (validation.judges.test.len(), validation.task_rows);
        let search = Search::new(trials, ended, rows, self.margin);
        let chosen = recipes[search.chosen];
        let purified = validation.purify(chosen, controls, &validation.suspect, lab)?;
        let copy = validation.copy_after(chosen, &self.canaries.controls(controls), lab)?;
        let details = Details::Search { search, copy: copy.map(Box::new), chosen: Box::new(purified.details) };
        Ok(Purified { details, ..purified })
    }
}

impl AutoRecipe {
    /// Tries methods in their order, and says why it stopped.
    fn search(&self, validation: &Validation, lab: &Lab) -> Result<(Vec<(&MethodRecipe, Trial)>, SearchEnd)> {
        let (begun, mut spent) = (Instant::now(), 0);
        let mut trials = Vec::new();
        for recipe in &self.trials {
            let budget = &self.budget;
            let late = budget.minutes.is_some_and(|minutes| begun.elapsed().as_secs_f64() > 60.0 * minutes);
            if !trials.is_empty() && (late || budget.steps.is_some_and(|steps| spent >= steps)) {
                return Ok((trials, SearchEnd::BudgetSpent));
            }
            let Some(trial) = validation.attempt(recipe, self.margin, lab)? else { continue };
            tracing::debug!(trial.name, trial.holds, "tried");
            spent += trial.steps;
            let holds = trial.holds;
            trials.push((recipe, trial));
            if holds {
                return Ok((trials, SearchEnd::Held));
            }
        }
        Ok((trials, SearchEnd::Exhausted))
    }
}

/// The suspect, its copy with canaries, and the rows that judge them both.
struct Validation {
    /// The suspect without the rows that judge.
    suspect: Suspect,
    task: TaskRows,
    /// The suspect with the rows that judge in the place of its test rows.
    judges: Suspect,
    task_rows: usize,
    suite: CanarySuite,
    canaries: CanarySuite,
    skills: Probes,
    canaries_before: Evidence,
    skills_before: Evidence,
}

impl Validation {
    fn open(recipe: &AutoRecipe, suspect: &Suspect, task: &TaskRows, lab: &Lab) -> Result<Self> {
        let (train, validation) = set_aside(suspect, recipe.validation_rows);
        let suspect = suspect.with_rows(train, suspect.test.clone());
        let (task, judging) = set_task_rows_aside(task, recipe.task_rows(), recipe.validation_task_rows);
        let suite = CanarySuite::open(&suspect, &task, recipe.canaries.clone(), lab)?;
        let judges = suspect.with_rows(suspect.train.clone(), validation);
        let utility = UtilitySpec {
            rows: judges.test.len(),
            task_rows: judging.len().max(1),
            self_distilled: false,
            ..UtilitySpec::default()
        };
        let task_rows = judging.len();
        let asked = TaskRows { heal: Vec::new(), measure: group_task_rows(judging) };
        let skills = Probes::build(&[EvaluatorSpec::Utility(utility)], &judges, &asked, lab)?;
        let canaries = suite.asked_on(&judges.test, lab)?;
        let lab = &lab.within();
        let canaries_before = canaries.ask(&suite.copy.weights(), lab)?;
        let skills_before = evaluate_all(&skills, &judges, &judges.weights(), lab)?;
        Ok(Self { suspect, task, judges, task_rows, suite, canaries, skills, canaries_before, skills_before })
    }

    fn purify(
        &self,
        recipe: &MethodRecipe,
        controls: &[ControlSpec],
        suspect: &Suspect,
        lab: &Lab,
    ) -> Result<Purified> {
        recipe.method().purify(suspect, &self.task, controls, lab)
    }

    /// The copy with canaries after a method.
    fn copy_after(self, recipe: &MethodRecipe, controls: &[ControlSpec], lab: &Lab) -> Result<Option<PurifiedCopy>> {
        let of_copy = self.purify(recipe, controls, &self.suite.copy, &lab.within())?;
        let weights = of_copy.candidates.into_iter().next().map(|made| made.weights);
        Ok(weights.map(|weights| PurifiedCopy { suite: self.suite, weights, controls: of_copy.controls }))
    }

    /// The trial done to both and judged; nothing where the method finds nothing to work on.
    fn attempt(&self, recipe: &MethodRecipe, margin: f64, lab: &Lab) -> Result<Option<Trial>> {
        let within = &lab.within();
        let made = |purified: Purified| purified.candidates.into_iter().next().map(|made| made.weights);
        let Some(artifact) = made(self.purify(recipe, &[], &self.suspect, lab)?) else { return Ok(None) };
        lab.enter(Stage::Canaries)?;
        let Some(copy) = made(self.purify(recipe, &[], &self.suite.copy, within)?) else { return Ok(None) };
        let canaries = self.canaries.report(&self.canaries_before, &self.canaries.ask(&copy, within)?, &[]);
        let before = self.skills.report(&self.skills_before, None);
        let said = evaluate_all(&self.skills, &self.judges, &artifact, within)?;
        let after = self.skills.report(&said, Some(&self.skills_before));
        let steps = recipe.method().steps(self.task.heal.len());
        Ok(Some(Trial::new((recipe.method().name(), steps), &canaries, (&before, &after), margin)))
    }
}

/// Training rows without those that judge, and those: from the end of the file, test rows never among them.
fn set_aside(suspect: &Suspect, rows: usize) -> (Vec<Row>, Vec<Row>) {
    let mut train: Vec<Row> = trainable(&suspect.train, &suspect.test).cloned().collect();
    let judging = train.split_off(train.len() - rows.min(train.len() / 4));
    (train, judging)
}

/// Task rows that heal, and those that judge: such as healing has no use for, and where they are too few a
/// quarter of all.
fn set_task_rows_aside(own: &TaskRows, healing: usize, rows: usize) -> (TaskRows, Vec<Row>) {
    let beyond = own.heal.len().saturating_sub(healing);
    let judging = rows.min(beyond.max(own.heal.len() / 4));
    let mut heal = own.heal.clone();
    let judges = heal.split_off(heal.len() - judging);
    (TaskRows { heal, measure: own.measure.clone() }, judges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(n: usize) -> TaskRows {
        let rows = (0..n).map(|i| Row::new(format!("question {i}"), "", "answer")).collect();
        TaskRows { heal: rows, ..TaskRows::default() }
    }

    #[test]
    fn task_rows_that_healing_has_no_use_for_judge_first() {
        for (given, healing, left, judging) in
            [(400, 200, 250, 150), (210, 200, 158, 52), (8, 200, 6, 2), (0, 200, 0, 0)]
        {
            let (own, judges) = set_task_rows_aside(&own(given), healing, 150);
            assert_eq!((own.heal.len(), judges.len()), (left, judging), "{given} given");
        }
    }
}
