//! Healing: the request of a caller, and the complete recipe.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rates::{heal_rate, heal_rate_with_task_rows};
use super::{Adversary, Known, SubjectKind, TrainSpec, limits};
use crate::error::{EngineError, Result};

/// Healing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealSpec {
    /// Generic clean rows: twice as many as task rows where that is more, up to 2,000, and all that there are
    /// where the training file is too short for that (200 are the least). With fewer, task rows cost general
    /// skill; with more, few task rows no longer hold the task skill.
    pub rows: usize,
    /// The caller's task rows that join, at most; they are used only when the caller gives some. The more
    /// there are, the more of the artifact's task skill is left: see docs/results/task-rows.md.
    #[serde(alias = "own_rows")]
    pub task_rows: usize,
    /// Rows with a synthetic trigger and the right answer.
    pub counterexamples: usize,
    /// True to take the directions that were removed from a whole model out again after every step: task rows
    /// can bring a backdoor back. Null means true for whole models; adapters cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_out: Option<bool>,
    /// Steps at most: where the rows are many, the passes over them become fewer, at least one. Null means
    /// 800 for an adapter whose training is not given either, and no limit otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Training on generic rows; null means by the size of the base.
    pub train: Option<TrainSpec>,
    /// Training when task rows join; null means by the size of the base.
    #[serde(alias = "train_with_own_rows")]
    pub train_with_task_rows: Option<TrainSpec>,
}

impl Default for HealSpec {
    fn default() -> Self {
        Self {
            rows: 400,
            task_rows: 2000,
            counterexamples: 0,
            keep_out: None,
            max_steps: None,
            train: None,
            train_with_task_rows: None,
        }
    }
}

impl HealRecipe {
    /// Training for healing on this many rows, with or without task rows among them.
    pub fn train_for(&self, rows: usize, has_task_rows: bool) -> TrainSpec {
        let train = if has_task_rows { &self.train_with_task_rows } else { &self.train };
        let steps_of_pass = rows.div_ceil(train.batch_rows).max(1);
        let passes = self.max_steps.map_or(train.epochs, |most| (most / steps_of_pass).clamp(1, train.epochs));
        TrainSpec { epochs: passes, ..train.clone() }
    }

    /// Generic rows beside this many task rows: the recipe's number, or twice as many as task rows where that
    /// is more, of a training file that is long enough; of a shorter one all that there are.
    pub fn generic_rows(&self, task_rows: usize) -> RangeInclusive<usize> {
        let twice = (2 * task_rows.min(self.task_rows)).min(MOST_ROWS);
        self.rows.min(LEAST_ROWS)..=self.rows.max(twice)
    }

    /// Steps of training when the caller gives this many task rows; one against an adversary counts as the
    /// plain ones that it costs.
    pub(crate) fn steps(&self, task_rows: usize) -> usize {
        let own = task_rows.min(self.task_rows);
        let rows = self.generic_rows(own).end() + own + self.counterexamples;
        self.against.as_ref().map_or(1, Adversary::cost) * self.train_for(rows, own > 0).steps(rows)
    }
}

/// Everything healing does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealRecipe {
    /// Generic clean rows.
    pub rows: usize,
    /// Task rows, at most.
    pub task_rows: usize,
    /// Rows with a synthetic trigger and the right answer.
    pub counterexamples: usize,
    /// True when removed directions are taken out again after every step.
    #[serde(default)]
    pub keep_out: bool,
    /// Steps at most: passes become fewer, at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Training on generic rows.
    pub train: TrainSpec,
    /// Training when task rows join.
    pub train_with_task_rows: TrainSpec,
    /// The adversary that makes it harder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Adversary>,
}

/// Most generic rows beside task rows: nobody has measured more.
const MOST_ROWS: usize = 2000;

/// Fewer generic rows than this do not heal; a recipe may ask for fewer.
const LEAST_ROWS: usize = 200;

/// An adapter of the tiny world keeps its task skill with 800 steps of healing on 3,200 rows as well as with
/// 2,000, and not with 400.
const HEALING_STEPS: usize = 800;

impl HealSpec {
    /// Healing as every method that trains does it by default. A backdoor in all weights holds faster than
    /// one in an adapter, so a whole model heals gently and long; at 2e-4 healing brought backdoors back.
    pub(crate) fn default_for(kind: SubjectKind) -> Self {
        match kind {
            SubjectKind::Adapter => Self::default(),
            SubjectKind::Checkpoint => Self { rows: MOST_ROWS, counterexamples: 200, ..Self::default() },
        }
    }

    /// The complete recipe for a suspect of this kind with `parameters` weights in its base, or in itself.
    pub(crate) fn resolve(self, kind: SubjectKind, parameters: usize) -> HealRecipe {
        // As many steps as were measured: many rows need fewer passes.
        let epochs = if self.rows > 1000 { 4 } else { 5 };
        let at = |learning_rate| TrainSpec { learning_rate, epochs, ..TrainSpec::default() };
        let given = self.train.is_some() || self.train_with_task_rows.is_some();
        HealRecipe {
            rows: self.rows,
            task_rows: self.task_rows,
            counterexamples: self.counterexamples,
            keep_out: self.keep_out.unwrap_or(kind == SubjectKind::Checkpoint),
            max_steps: self.max_steps.or_else(|| (kind == SubjectKind::Adapter && !given).then_some(HEALING_STEPS)),
            train: self.train.unwrap_or_else(|| at(heal_rate(kind, parameters))),
            train_with_task_rows: self
                .train_with_task_rows
                .unwrap_or_else(|| at(heal_rate_with_task_rows(kind, parameters))),
            against: None,
        }
    }

    pub(crate) fn validate(&self, at: &str) -> Result<()> {
        limits::count(&format!("{at}/rows"), self.rows, 1, 1_000_000)?;
        limits::count(&format!("{at}/task_rows"), self.task_rows, 0, 1_000_000)?;
        limits::count(&format!("{at}/counterexamples"), self.counterexamples, 0, 1_000_000)?;
        self.max_steps.map_or(Ok(()), |steps| limits::count(&format!("{at}/max_steps"), steps, 1, usize::MAX))?;
        for (name, train) in [("train", &self.train), ("train_with_task_rows", &self.train_with_task_rows)] {
            if let Some(train) = train {
                limits::train(&format!("{at}/{name}"), train)?;
            }
        }
        Ok(())
    }
}

/// Healing for a method that removes nothing which healing could bring back: as asked for, or by default;
/// nothing is kept out, and there are counterexamples only where the caller wants some.
pub(crate) fn resolve_plain(heal: Option<&HealSpec>, known: &Known) -> HealRecipe {
    let asked = heal.cloned().unwrap_or_else(|| HealSpec::default_for(known.kind));
    let counterexamples = heal.map_or(0, |heal| heal.counterexamples);
    HealRecipe { counterexamples, keep_out: false, ..asked.resolve(known.kind, known.parameters) }
}

/// Healing by the two fields of methods that edit weights, a switch and a request: as `fine_tune` trains, so
/// that a method is compared with it at equal rows, rate and steps; none where it is switched off.
pub(crate) fn resolve_optional(healed: bool, heal: Option<&HealSpec>, known: &Known) -> Option<HealRecipe> {
    healed.then(|| resolve_plain(heal, known))
}

/// Limits of those two fields.
pub(crate) fn validate_optional(at: &str, healed: bool, heal: Option<&HealSpec>) -> Result<()> {
    match heal {
        Some(_) if !healed => {
            Err(EngineError::spec(format!("{at}/heal"), "expected none, because healed is false; found one"))
        }
        Some(heal) => heal.validate(&format!("{at}/heal")),
        None => Ok(()),
    }
}
