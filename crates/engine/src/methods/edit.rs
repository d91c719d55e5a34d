//! The course of methods that edit the weights once: rows are split, the weights edited, healed where that is asked for, and compared with
//! controls. What is edited, and how, is the method's own ([`WeightEdit`]).

use super::controls::{Start, make_controls};
use super::{Method, Purified, PurifiedCandidate};
use crate::data::{OwnRows, Row, TrainSplit, split_train_rows};
use crate::error::Result;
use crate::heal::{HealPlan, Wounded, heal, split_rows};
use crate::lab::{Lab, Stage};
use crate::report::{LongRows, PrunedHeads, Untouched};
use crate::spec::{ControlSpec, HealRecipe};
use crate::suspect::Suspect;
use crate::weights::Weights;

/// A change of the weights that is not trained.
pub(super) trait WeightEdit {
    /// The candidate's name, such as `wanda-0.35`.
    fn name(&self) -> String;

    /// How the edited weights are healed, if they are.
    fn heal(&self) -> Option<&HealRecipe>;

    /// Training rows that the edit itself looks at: so many sets of so many rows, which come as `pairs` of the split.
    fn rows(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Why this suspect has nothing to edit, if it has not.
    fn nothing_to_edit(&self, _: &Suspect) -> Option<String> {
        None
    }

    /// What the edit makes of the suspect.
    fn edit(&self, suspect: &Suspect, rows: &TrainSplit, long_rows: &mut Vec<LongRows>, lab: &Lab) -> Result<Edit>;

    /// What the control of random channels starts from.
    fn random_channels(&self, _: &Suspect, _: &Edit, _: &Lab) -> Result<Start> {
        Ok(Start::LeftOut("the method cuts no channels that could be drawn at random instead"))
    }
}

/// What an edit makes of a suspect.
pub(super) struct Edit {
    /// The edited weights, and what healing must not bring back.
    pub model: Wounded,
    /// The heads that are gone, where the edit is about heads.
    pub heads: Option<PrunedHeads>,
}

impl From<Weights> for Edit {
    fn from(weights: Weights) -> Self {
        Self { model: Wounded::uncut(weights), heads: None }
    }
}

/// The method that such an edit makes.
pub(super) struct Edited<E> {
    /// The edit with its complete recipe.
    pub edit: E,
    /// The controls that were asked for.
    pub controls: Vec<ControlSpec>,
}

impl<E: WeightEdit> Method for Edited<E> {
    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        let method = &self.edit;
        if let Some(reason) = method.nothing_to_edit(suspect) {
            return Ok(Purified::untouched(Untouched::NothingToWorkOn(reason)));
        }
        let rows = match method.heal() {
            Some(recipe) => split_rows(suspect, method.rows(), recipe, own, lab)?,
            None => split_train_rows(&suspect.train, &suspect.test, method.rows(), 0..=0, 0, lab)?,
        };
        let mut long_rows = Vec::new();
        lab.enter(Stage::Suppress)?;
        let edited = method.edit(suspect, &rows, &mut long_rows, lab)?;
        let own = method.heal().map_or(&[][..], |recipe| own.healing(recipe.own_rows));
        let plan = heal_plan(method, suspect, &rows, own, lab)?;
        lab.enter(Stage::Heal)?;
        let candidate = PurifiedCandidate {
            name: method.name(),
            suppression: None,
            heads: edited.heads.clone(),
            healing: plan.healing.clone(),
            weights: heal(suspect, std::slice::from_ref(&edited.model), &plan, lab)?.remove(0),
        };
        let start = |control| start(method, control, suspect, (&edited, &plan), lab);
        let generic = || heal_plan(method, suspect, &rows, &[], lab);
        let (controls, left_out) = make_controls(&self.controls, start, suspect, (&plan, generic), lab)?;
        long_rows.push(plan.long_rows);
        long_rows.retain(LongRows::any);
        Ok(Purified { candidates: vec![candidate], controls, left_out, long_rows, ..Purified::default() })
    }
}

fn heal_plan(
    method: &impl WeightEdit,
    suspect: &Suspect,
    rows: &TrainSplit,
    own: &[Row],
    lab: &Lab,
) -> Result<HealPlan> {
    let Some(recipe) = method.heal() else { return Ok(HealPlan::none()) };
    HealPlan::of_split(suspect, rows, own, recipe, lab)
}

fn start(
    method: &impl WeightEdit,
    control: ControlSpec,
    suspect: &Suspect,
    (edited, plan): (&Edit, &HealPlan),
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
        ControlSpec::WithoutOwnRows => healed("healed on generic rows only"),
    })
}
