//! The course of methods that edit the weights once: rows are split, the weights edited, healed where that is
//! asked for, and compared with controls. The edit itself is the method's own ([`WeightEdit`]).

use super::controls::{ControlPlans, Start, make_controls};
use crate::data::{Row, TaskRows, TrainSplit, split_train_rows};
use crate::error::Result;
use crate::lab::Lab;
use crate::methods::{Method, Purified, PurifiedCandidate, Removed, Untouched};
use crate::spec::{ControlSpec, HealRecipe};
use crate::stage::Stage;
use crate::suspect::Suspect;
use crate::suspect::weights::Weights;
use crate::train::heal::{EditedModel, HealPlan, heal, split_rows};

/// A change of the weights that is not trained, with its complete recipe.
pub trait WeightEdit {
    /// The candidate's name, such as `wanda-0.35`.
    fn name(&self) -> String;

    /// The recipe of healing the edited weights, if they are healed.
    fn heal(&self) -> Option<&HealRecipe>;

    /// Training rows that the edit itself looks at: so many sets of so many rows, which come as `pairs` of
    /// the split.
    fn rows(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Steps of training, at most, when the caller gives this many task rows.
    fn steps(&self, task_rows: usize) -> usize {
        self.heal().map_or(0, |heal| heal.steps(task_rows))
    }

    /// The reason why this suspect has nothing to edit, if it has not.
    fn nothing_to_edit(&self, _: &Suspect) -> Option<String> {
        None
    }

    /// The suspect after the edit.
    ///
    /// # Errors
    /// Those of the device, of training and of the scratch folder.
    fn edit(&self, suspect: &Suspect, rows: &TrainSplit, lab: &Lab) -> Result<Edit>;

    /// The start of the control of random channels.
    ///
    /// # Errors
    /// Those of the device and of the scratch folder.
    fn random_channels(&self, _: &Suspect, _: &Edit, _: &Lab) -> Result<Start> {
        Ok(Start::LeftOut("the method cuts no channels that could be drawn at random instead"))
    }
}

/// The outcome of an edit.
pub struct Edit {
    /// The edited weights, with the parts that healing must not bring back.
    pub model: EditedModel,
    /// The part that is gone, where the edit can name it.
    pub removed: Removed,
}

impl From<Weights> for Edit {
    fn from(weights: Weights) -> Self {
        Self { model: weights.into(), removed: Removed::Nothing }
    }
}

impl<E: WeightEdit> Method for E {
    fn name(&self) -> String {
        WeightEdit::name(self)
    }

    fn heal(&self) -> Option<&HealRecipe> {
        WeightEdit::heal(self)
    }

    fn steps(&self, task_rows: usize) -> usize {
        WeightEdit::steps(self, task_rows)
    }

    fn purify(&self, suspect: &Suspect, task: &TaskRows, controls: &[ControlSpec], lab: &Lab) -> Result<Purified> {
        if let Some(reason) = self.nothing_to_edit(suspect) {
            return Ok(Purified::untouched(Untouched::NothingToWorkOn(reason)));
        }
        let recipe = WeightEdit::heal(self);
        let rows = match recipe {
            Some(recipe) => split_rows(suspect, self.rows(), recipe, task, lab)?,
            None => split_train_rows(&suspect.train, &suspect.test, self.rows(), 0..=0, 0, lab)?,
        };
        lab.enter(Stage::Suppress)?;
        let edited = self.edit(suspect, &rows, lab)?;
        let task = recipe.map_or(&[][..], |recipe| task.healing(recipe.task_rows));
        let plan = heal_plan(recipe, suspect, &rows, task, lab)?;
        lab.enter(Stage::Heal)?;
        let candidate = PurifiedCandidate {
            name: WeightEdit::name(self),
            removed: edited.removed.clone(),
            healing: plan.healing.clone(),
            weights: heal(suspect, std::slice::from_ref(&edited.model), &plan, lab)?.remove(0),
        };
        let start = |control| start(self, control, suspect, &edited, &plan, lab);
        let plans = ControlPlans { plan: &plan, generic: || heal_plan(recipe, suspect, &rows, &[], lab) };
        let (controls, left_out) = make_controls(controls, start, suspect, plans, lab)?;
        lab.note_long_rows(&plan.long_rows);
        Ok(Purified { candidates: vec![candidate], controls, left_out, ..Purified::default() })
    }
}

fn heal_plan(
    recipe: Option<&HealRecipe>,
    suspect: &Suspect,
    rows: &TrainSplit,
    task: &[Row],
    lab: &Lab,
) -> Result<HealPlan> {
    let Some(recipe) = recipe else { return Ok(HealPlan::none()) };
    HealPlan::of_split(suspect, rows, task, recipe, lab)
}

fn start(
    method: &impl WeightEdit,
    control: ControlSpec,
    suspect: &Suspect,
    edited: &Edit,
    plan: &HealPlan,
    lab: &Lab,
) -> Result<Start> {
    let healed = |how: &str| Start::model(format!("{} {how}", method.name()), edited.model.clone());
    Ok(match control {
        ControlSpec::RandomChannels => method.random_channels(suspect, edited, lab)?,
        ControlSpec::RandomSubspace => Start::LeftOut("the method removes no directions"),
        ControlSpec::PlainFineTuning | ControlSpec::WithoutHealing if !plan.heals() => {
            Start::LeftOut("the method is not healed, so that there is no training to compare with")
        }
        ControlSpec::PlainFineTuning | ControlSpec::AdapterDropped => Start::plain(suspect),
        ControlSpec::WithoutHealing => healed("without healing"),
        ControlSpec::WithoutTaskRows => healed("healed on generic rows only"),
    })
}
